"""One step after another, in place over time, vectorised over the rest: 1 read + 1 write, the CPU winner."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Bool, Inexact, Shaped


def at(array: Shaped[Any, "..."], t: Any, axis: Any) -> Shaped[Any, "..."]:
    """array at step t along axis, or its only step when it does not change over time."""
    return lax.dynamic_index_in_dim(array, t if array.shape[axis] > 1 else 0, axis, keepdims=False)


def sequential(
    a: Inexact[Any, "..."], b: Inexact[Any, "..."], h0: Inexact[Any, "..."], reset: Bool[Any, "..."] | None,
    axis: int, reverse: bool,
) -> Inexact[Any, "..."]:  # fmt: skip
    steps = b.shape[axis]

    def step(i, carry):
        out, h = carry
        t = steps - 1 - i if reverse else i
        past = at(a, t, axis) * h
        if reset is not None:
            past = jnp.where(at(reset, t, axis), 0, past)
        h = past + at(b, t, axis)
        return lax.dynamic_update_index_in_dim(out, h, t, axis), h

    return lax.fori_loop(0, steps, step, (jnp.zeros_like(b), h0))[0]
