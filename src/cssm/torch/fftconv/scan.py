"""The geometric kernel K[l, n] = A_n^l as a recurrence: no transform, no padding."""

from typing import Annotated, Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from cssm.core.typing import Inexact
from cssm.shared.fft_plan import block_of, scan_chunk
from cssm.shared.fft_shapes import check_dtypes, check_scan

from ..tensors import check_tensors
from .strategies import matrix_product, precision_of


@overload
def opt_ssm_scan(
    x: Tensor, A: Tensor, B_: Tensor, C: Tensor, h0: Tensor | None = None, *, return_state: Literal[False] = False
) -> Tensor: ...


@overload
def opt_ssm_scan(
    x: Tensor, A: Tensor, B_: Tensor, C: Tensor, h0: Tensor | None = None, *, return_state: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def opt_ssm_scan(
    x: Annotated[Tensor, "b t i"],
    A: Annotated[Tensor, "n"],
    B_: Annotated[Tensor, "n i"],
    C: Annotated[Tensor, "o n"],
    h0: Annotated[Tensor, "b n"] | None = None,
    *,
    return_state: bool = False,
) -> Inexact[Tensor, "b t o"] | tuple[Inexact[Tensor, "b n"], Inexact[Tensor, "b t o"]]:
    """h_t = A h_{t-1} + B_ x_t, y_t = Re(C h_t): `opt_ssm_forward` with K[l, n] = A[n]^l. No Re for a complex x.

    Args:
      x: (B, L, H_in). A: (N,). B_: (N, H_in). C: (H_out, N). Real or complex floating.
      h0: (B, N), the state before the first step; zeros when omitted.
      return_state: whether to return the state after the last step as well.

    Returns:
      y (B, L, H_out) in x's dtype; with return_state (state, y), the state (B, N) in float32 / complex64 or wider.

    Raises:
      ShapeError: shapes or dtypes that do not fit.

    >>> one = torch.ones(1, 1)
    >>> opt_ssm_scan(torch.ones(1, 3, 1), torch.tensor([0.5]), one, one)[0, :, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    check_tensors("opt_ssm_scan", x, A, B_, C, h0)
    arrays = (x, A, B_, C, *(() if h0 is None else (h0,)))
    check_dtypes("opt_ssm_scan", **{n: a.dtype for n, a in zip(("x", "A", "B_", "C", "h0"), arrays, strict=False)})
    check_scan(x.shape, A.shape, B_.shape, C.shape, None if h0 is None else h0.shape)
    precision, wide = precision_of(*arrays)
    dtype = wide if any(a.is_complex() for a in (x, A, B_, *arrays[4:])) else precision
    h0 = x.new_zeros((x.shape[0], A.shape[0]), dtype=dtype) if h0 is None else h0.to(dtype)
    into, out = (M.to(torch.promote_types(M.dtype, precision)).transpose(0, 1) for M in (B_, C))

    def scan(x, h0):
        signal = x.to(torch.promote_types(x.dtype, precision))
        states = diagonal_scan(A.to(dtype), matrix_product(signal, into).to(dtype), h0)
        return states[:, -1], matrix_product(states, out, real=not x.is_complex()).to(x.dtype)

    size = block_of(x.shape[0], A.shape[0], x.shape[1])
    parts = [scan(*part) for part in zip(x.split(size), h0.split(size), strict=True)]
    state, y = (torch.cat(whole) for whole in zip(*parts, strict=True))
    return (state, y) if return_state else y


def diagonal_scan(
    a: Inexact[Tensor, "n"], inputs: Inexact[Tensor, "b t n"], h0: Inexact[Tensor, "b n"]
) -> Inexact[Tensor, "b t n"]:
    """All states of h_t = a h_{t-1} + u_t, u (B, L, N): chunks of sqrt(L) steps side by side, then their carries."""
    length = inputs.shape[1]
    steps = scan_chunk(length)
    chunks = F.pad(inputs, (0, 0, 0, -length % steps)).unflatten(1, (-1, steps))
    local, powers = [chunks[:, :, 0]], [a]
    for step in range(1, steps):
        local.append(chunks[:, :, step] + a * local[-1])
        powers.append(powers[-1] * a)
    carries = [h0]
    for end in local[-1].unbind(1)[:-1]:
        carries.append(end + powers[-1] * carries[-1])
    carried = torch.stack(carries, 1)[:, :, None] * torch.stack(powers)
    return (torch.stack(local, 2) + carried).flatten(1, 2)[:, :length]
