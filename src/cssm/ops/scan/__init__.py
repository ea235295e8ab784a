"""Linear recurrence over time: h_t = a_t h_{t-1} + b_t, parallel or sequential, with exact gradients.

The maths and the cost of each implementation are in this folder's README.md.
"""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Inexact
from cssm.shared.recurrence import check_recurrence
from cssm.shared.reset import check_reset

from ..given import given
from .decay import DECAY_IMPLEMENTATIONS, decay_scan, decay_scan_cumsum
from .decay_reference import decay_scan_reference
from .reference import linear_scan_reference
from .vjp import IMPLEMENTATIONS, scan_with_vjp

__all__ = [
    "DECAY_IMPLEMENTATIONS", "IMPLEMENTATIONS", "decay_scan", "decay_scan_cumsum", "decay_scan_reference",
    "linear_scan", "linear_scan_reference",
]  # fmt: skip


def linear_scan(
    a: Annotated[ArrayLike, "..."],
    b: Annotated[ArrayLike, "..."],
    h0: Annotated[ArrayLike, "..."] | None = None,
    *,
    axis: int = 1,
    reverse: bool = False,
    reset: Annotated[ArrayLike, "..."] | None = None,
    implementation: str | None = None,
) -> Inexact[Array, "..."]:
    """All states of the linear recurrence h_t = a_t h_{t-1} + b_t along `axis`.

    Equivalent to::

        h = h0
        for t in range(T):
            h = where(reset[:, t], 0, a[:, t] * h) + b[:, t]
            out[:, t] = h

    Args:
      a: transition, real or complex; broadcastable to b by NumPy's rules. Size 1 (or missing) along `axis`
        means the same transition at every step; it is never expanded to b's shape.
      b: input, real or complex, with time at `axis`, at least one step long.
      h0: state before the first step, b's shape without `axis`; zeros when omitted.
      reverse: run from the last step to the first (h_t = a_t h_{t+1} + b_t; h0 is then the state after the end).
      reset: bool, b's axes up to and including `axis`. True forgets all that came before: h_t = b_t.
      implementation: "sequential" (one pass, in place: picked on CPU), "associative" (log2 T passes: picked on
        GPU and TPU), "chunked" (two short sequential passes), or None to pick.

    Returns:
      h, b's shape; float32 / complex64 carry (float64 / complex128 where given), in the promoted dtype of a, b, h0.

    Raises:
      ShapeError: a does not broadcast to b, h0 or reset has another shape, a dtype is not inexact, or T = 0.
      UsageError: an unknown implementation.

    Source: docs/math.md section 1; Blelloch (1990), Prefix sums and their applications.

    >>> import jax.numpy as jnp
    >>> linear_scan(jnp.float32(0.5), jnp.ones((1, 3, 1)))[0, :, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    a, b, h0, reset = jnp.asarray(a), jnp.asarray(b), given(h0), given(reset)
    axis = _check(a, b, h0, axis, reset)
    if implementation is None:
        implementation = "sequential" if jax.default_backend() == "cpu" else "associative"
    if implementation not in IMPLEMENTATIONS:
        raise UsageError(f"unknown implementation {implementation!r} of linear_scan: use {', '.join(IMPLEMENTATIONS)}")
    dtype = jnp.result_type(a, b, *(() if h0 is None else (h0,)))
    carry = jnp.promote_types(dtype, jnp.float32)
    a = a.astype(carry if jnp.iscomplexobj(a) else jnp.finfo(carry).dtype)
    a = a.reshape((1,) * (b.ndim - a.ndim) + a.shape)
    shape = b.shape[:axis] + b.shape[axis + 1 :]
    h0 = jnp.zeros(shape, carry) if h0 is None else h0.astype(carry)
    if reset is not None:
        reset = reset.reshape(reset.shape + (1,) * (b.ndim - reset.ndim))
    h: Any = scan_with_vjp(a, b.astype(carry), h0, reset, axis, reverse, IMPLEMENTATIONS[implementation])
    return h.astype(dtype)


def _check(a, b, h0, axis, reset) -> int:
    if not (jnp.issubdtype(a.dtype, jnp.inexact) and jnp.issubdtype(b.dtype, jnp.inexact)):
        raise ShapeError(f"linear_scan takes real or complex floating arrays, got a {a.dtype}, b {b.dtype}: cast them")
    if not -b.ndim <= axis < b.ndim:
        raise ShapeError(f"linear_scan: axis {axis} is out of range for b of shape {b.shape}")
    axis %= b.ndim
    if b.shape[axis] == 0:
        raise ShapeError(f"linear_scan: b has no steps along axis {axis} (shape {b.shape}); give at least one")
    check_recurrence("linear_scan", a.shape, b.shape, None if h0 is None else h0.shape, axis)
    check_reset("linear_scan", reset, b.shape[: axis + 1])
    return axis
