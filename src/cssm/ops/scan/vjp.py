"""The gradient of the recurrence is the recurrence, run backwards.

With g = dL/dh (JAX's convention: cotangents are transposed, not conjugated):
s_t = g_t + a_{t+1} s_{t+1};  db = s;  da_t = s_t h_{t-1}, summed over the axes a lacks;  dh_0 = a_1 s_1.
Only h and a are saved.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Bool, Inexact

from .associative import associative
from .chunked import chunked
from .sequential import at, sequential

IMPLEMENTATIONS = {"sequential": sequential, "associative": associative, "chunked": chunked}


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def scan_with_vjp(
    a: Inexact[Any, "..."], b: Inexact[Any, "..."], h0: Inexact[Any, "..."], reset: Bool[Any, "..."] | None,
    axis: int, reverse: bool, run: Callable[..., Any],
):  # fmt: skip
    return run(a, b, h0, reset, axis, reverse)


def _forward(a, b, h0, reset, axis, reverse, run):
    h = run(a, b, h0, reset, axis, reverse)
    return h, (a, h0, reset, h)


def _backward(axis, reverse, run, saved, g):
    a, h0, reset, h = saved
    next_a = a if a.shape[axis] == 1 else _shift(a, axis, not reverse, jnp.zeros_like(at(a, 0, axis)))
    next_reset = None if reset is None else _shift(reset, axis, not reverse, jnp.zeros_like(at(reset, 0, axis)))
    s = run(next_a, g, jnp.zeros_like(h0), next_reset, axis, not reverse)
    past = _shift(h, axis, reverse, h0)
    if reset is not None:
        past = jnp.where(reset, 0, past)
    first = h.shape[axis] - 1 if reverse else 0
    dh0 = at(a, first, axis) * at(s, first, axis)
    if reset is not None:
        dh0 = jnp.where(at(reset, first, axis), 0, dh0)
    return _sum_to(s * past, a), s, dh0, None


def _shift(array, axis, reverse, edge):
    """array delayed by one step (or advanced, when reverse), with `edge` entering."""
    steps, edge = array.shape[axis], jnp.expand_dims(edge, axis)
    if reverse:
        return jnp.concatenate([lax.slice_in_dim(array, 1, steps, axis=axis), edge], axis)
    return jnp.concatenate([edge, lax.slice_in_dim(array, 0, steps - 1, axis=axis)], axis)


def _sum_to(array, like):
    lacking = [i for i, (n, m) in enumerate(zip(array.shape, like.shape, strict=True)) if n != m]
    array = array.sum(lacking, keepdims=True)
    return array if jnp.iscomplexobj(like) else array.real


scan_with_vjp.defvjp(_forward, _backward)
