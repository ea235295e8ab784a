"""Chunks of about sqrt(T) steps: all chunks walk side by side, then the carries walk from chunk to chunk.

Depth 2 sqrt(T) instead of T, two passes over the data instead of log2 T.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Bool, Inexact

from .associative import times
from .sequential import sequential


def chunked(
    a: Inexact[Any, "..."], b: Inexact[Any, "..."], h0: Inexact[Any, "..."], reset: Bool[Any, "..."] | None,
    axis: int, reverse: bool,
) -> Inexact[Any, "..."]:  # fmt: skip
    if reverse:
        a, b = jnp.flip(a, axis), jnp.flip(b, axis)
        reset = None if reset is None else jnp.flip(reset, axis)
        return jnp.flip(chunked(a, b, h0, reset, axis, False), axis)
    steps = b.shape[axis]
    size = math.isqrt(steps - 1) + 1
    ends_reset = None
    if reset is not None:
        a = jnp.where(reset, 0, a)
        reset = _split(reset, axis, size, False)
        ends_reset = reset.any(axis + 1)
    a = _split(a, axis, size, 1) if a.shape[axis] > 1 else jnp.expand_dims(a, axis)
    b = _split(b, axis, size, 0)
    inside = axis + 1  # (..., chunks, size, ...)
    local = sequential(a, b, jnp.zeros_like(lax.index_in_dim(b, 0, inside, keepdims=False)), reset, inside, False)
    decay = _cumulative_product(a, size, inside)
    ends_a, ends_b = (lax.index_in_dim(v, size - 1, inside, keepdims=False) for v in (decay, local))
    ends = sequential(ends_a, ends_b, h0, ends_reset, axis, False)
    before = jnp.concatenate([jnp.expand_dims(h0, axis), lax.slice_in_dim(ends, 0, -1, axis=axis)], axis)
    h = local + times(decay, jnp.expand_dims(before, inside))
    h = h.reshape(h.shape[:axis] + (h.shape[axis] * size,) + h.shape[inside + 1 :])
    return lax.slice_in_dim(h, 0, steps, axis=axis)


def _split(array, axis, size, fill):
    """Time padded to whole chunks of `size`, then cut into (chunks, size)."""
    missing = -array.shape[axis] % size
    pad = [(0, missing if i == axis else 0) for i in range(array.ndim)]
    array = jnp.pad(array, pad, constant_values=fill)
    return array.reshape(array.shape[:axis] + (array.shape[axis] // size, size) + array.shape[axis + 1 :])


def _cumulative_product(a, size, axis):
    a = jnp.broadcast_to(a, a.shape[:axis] + (size,) + a.shape[axis + 1 :])
    return lax.cumprod(a, axis=axis)
