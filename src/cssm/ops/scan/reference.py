"""The recurrence, written out: slow and obvious. Every fast path is compared with this one."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Bool, Inexact


def linear_scan_reference(
    a: Inexact[Any, "..."], b: Inexact[Any, "..."], h0: Inexact[Any, "..."] | None = None, *, axis: int = 1,
    reverse: bool = False, reset: Bool[Any, "..."] | None = None,
) -> Inexact[Any, "..."]:  # fmt: skip
    """h_t = a_t h_{t-1} + b_t, one step at a time; gradients by autodiff. Arguments as `linear_scan`."""
    a, b = jnp.moveaxis(jnp.broadcast_to(a, b.shape), axis, 0), jnp.moveaxis(b, axis, 0)
    h0 = jnp.zeros_like(a[0] * b[0]) if h0 is None else h0.astype((a[0] * b[0]).dtype)
    reset = jnp.zeros((b.shape[0],), bool) if reset is None else jnp.moveaxis(reset, axis, 0)
    reset = reset.reshape(reset.shape + (1,) * (b.ndim - reset.ndim))

    def step(h, now):
        a, b, reset = now
        h = jnp.where(reset, 0, a * h) + b
        return h, h

    return jnp.moveaxis(lax.scan(step, h0, (a, b, reset), reverse=reverse)[1], 0, axis)
