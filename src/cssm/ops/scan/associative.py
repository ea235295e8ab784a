"""log2 T passes over the data. A transition that does not change over time is squared, never expanded."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Bool, Inexact


def times(a: Inexact[Any, "..."], past: Inexact[Any, "..."]) -> Inexact[Any, "..."]:
    """a past, and 0 where a is: a transition of 0 forgets even inf and NaN."""
    return jnp.where(a == 0, 0, a * past)


def combine(first: Any, second: Any) -> tuple[Any, Any]:
    """(a1, b1) then (a2, b2): the pair (a2 a1, a2 b1 + b2). Associative."""
    (a1, b1), (a2, b2) = first, second
    return times(a2, a1), times(a2, b1) + b2


def associative(
    a: Inexact[Any, "..."], b: Inexact[Any, "..."], h0: Inexact[Any, "..."], reset: Bool[Any, "..."] | None,
    axis: int, reverse: bool,
) -> Inexact[Any, "..."]:  # fmt: skip
    first = -1 if reverse else 0
    start = lax.index_in_dim(a, 0 if a.shape[axis] == 1 else first % a.shape[axis], axis, keepdims=False) * h0
    if reset is not None:
        start = jnp.where(lax.index_in_dim(reset, first % b.shape[axis], axis, keepdims=False), 0, start)
    index = (slice(None),) * axis + (first,)
    b = b.at[index].add(start)
    if a.shape[axis] == 1 and reset is None:
        return _doubling(a, b, axis, reverse)
    steps = a.shape[:axis] + (b.shape[axis],) + a.shape[axis + 1 :]
    a = jnp.broadcast_to(a, steps)  # over time only
    if reset is not None:
        a = jnp.where(reset, 0, a)
    return lax.associative_scan(combine, (a, b), reverse=reverse, axis=axis)[1]


def _doubling(a, b, axis, reverse):
    """h <- h + a^(2^j) (h shifted by 2^j): Kogge-Stone, with the transition squared once per pass."""
    shift, steps = 1, b.shape[axis]
    while shift < steps:
        pad = [(0, 0, 0)] * b.ndim
        pad[axis] = (-shift, shift, 0) if reverse else (shift, -shift, 0)
        b = b + a * lax.pad(b, jnp.zeros((), b.dtype), pad)
        a, shift = a * a, 2 * shift
    return b
