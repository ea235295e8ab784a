"""The geometric kernel K[l, n] = A_n^l as a recurrence: no transform, no padding."""

from typing import Annotated, Literal, overload

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from cssm.core.typing import Inexact
from cssm.shared.fft_shapes import check_dtypes, check_scan

from ..scan import linear_scan
from .ssm import real_precision
from .strategies import product


@overload
def opt_ssm_scan(
    x: ArrayLike,
    A: ArrayLike,
    B_: ArrayLike,
    C: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    return_state: Literal[False] = False,
) -> Array: ...


@overload
def opt_ssm_scan(
    x: ArrayLike, A: ArrayLike, B_: ArrayLike, C: ArrayLike, h0: ArrayLike | None = None, *, return_state: Literal[True]
) -> tuple[Array, Array]: ...


def opt_ssm_scan(
    x: Annotated[ArrayLike, "b t i"],
    A: Annotated[ArrayLike, "n"],
    B_: Annotated[ArrayLike, "n i"],
    C: Annotated[ArrayLike, "o n"],
    h0: Annotated[ArrayLike, "b n"] | None = None,
    *,
    return_state: bool = False,
) -> Inexact[Array, "b t o"] | tuple[Inexact[Array, "b n"], Inexact[Array, "b t o"]]:
    """`opt_ssm_forward` with K[l, n] = A[n]^l, as the recurrence h_t = A h_{t-1} + B_ x_t, y_t = Re(C h_t).

    Args:
      x: (B, L, H_in), real or complex; a complex x gives the complex y, without Re.
      A: (N,), the diagonal of the discrete state matrix, real or complex. B_: (N, H_in). C: (H_out, N).
      h0: (B, N), the state before the first step; zeros when omitted.
      return_state: whether to return the state after the last step as well, for the next part of a long signal.

    Returns:
      y (B, L, H_out) in x's dtype; with return_state (state, y), the state (B, N) in float32 / complex64 or wider.

    Raises:
      ShapeError: shapes or dtypes that do not fit.

    Source: docs/math.md sections 1 and 5.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> opt_ssm_scan(jnp.ones((1, 3, 1)), jnp.array([0.5]), one, one)[0, :, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    x, A, B_, C, *start = (jnp.asarray(a) for a in (x, A, B_, C, *(() if h0 is None else (h0,))))
    check_dtypes("opt_ssm_scan", x=x.dtype, A=A.dtype, B_=B_.dtype, C=C.dtype, h0=start[0].dtype if start else x.dtype)
    check_scan(x.shape, A.shape, B_.shape, C.shape, start[0].shape if start else None)
    precision = real_precision(x, A, B_, C, *start)
    x_, A, B_, C, *start = (a.astype(jnp.promote_types(a.dtype, precision)) for a in (x, A, B_, C, *start))
    batch, length, channels = x.shape
    dtype = jnp.result_type(x_, A, B_, *start)
    inputs = product(B_, x_.reshape(-1, channels).T).reshape(-1, batch, length).astype(dtype)
    first = start[0].T.astype(dtype) if start else None
    states = linear_scan(A[:, None, None].astype(dtype), inputs, first, axis=2)
    y = product(C, states.reshape(A.shape[0], -1), real=not jnp.iscomplexobj(x))
    y = jnp.moveaxis(y.reshape(-1, batch, length), 0, -1).astype(x.dtype)
    return (states[..., -1].T, y) if return_state else y
