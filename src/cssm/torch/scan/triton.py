"""Launches the Triton decay scan on CUDA tensors (or, under TRITON_INTERPRET=1, on CPU tensors)."""

import contextlib
import os

import torch
from torch import Tensor

from cssm.core.errors import UsageError
from cssm.core.typing import Float

PROCESSORS = 132  # of the interpreter, which has none


def require_interpreter() -> None:
    """The kernels run on CPU tensors only under Triton's interpreter."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError("implementation='triton' needs CUDA tensors (or TRITON_INTERPRET=1): use 'sequential' on CPU")


def _kernels():
    try:
        from cssm.kernels import decay_scan
    except ImportError as error:
        raise UsageError("decay_scan on CUDA needs Triton: pip install 'cssm[triton]'") from error
    return decay_scan


def _plan(x, implementation):
    split = {"sequential": False, "chunked": True, "triton": None}[implementation]
    count = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else PROCESSORS
    return _kernels().plan(tuple(x.shape), count, split)


def forward(
    log_a: Float[Tensor, "b t r"], x: Float[Tensor, "b t r c"], h0: Float[Tensor, "b r c"] | None, carry: torch.dtype,
    implementation: str,
) -> Float[Tensor, "b t r c"]:  # fmt: skip
    """out (B,T,R,C) in x's dtype."""
    log_a, x = log_a.contiguous(), x.contiguous()
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    kernels, geometry = _kernels(), _plan(x, implementation)
    sizes = (*x.shape[1:], geometry.chunk)
    ends, products = _carries(x, geometry, carry)
    h0_data = x if h0 is None else h0.contiguous()
    launch = geometry.launch()
    with _device(x):
        if geometry.chunks > 1:
            kernels.forward_ends_kernel[geometry.grid](log_a, x, *sizes, ends, products, **launch)
        kernels.forward_kernel[geometry.grid](
            log_a, x, h0_data, ends, products, *sizes, out, HAS_H0=h0 is not None, **launch
        )
    return out


def backward(
    log_a: Float[Tensor, "b t r"], h: Float[Tensor, "b t r c"], h0: Float[Tensor, "b r c"] | None,
    g: Float[Tensor, "b t r c"], carry: torch.dtype, implementation: str,
) -> tuple[Float[Tensor, "b t r"], Float[Tensor, "b t r c"], Float[Tensor, "b r c"]]:  # fmt: skip
    """dlog_a (B,T,R), dx (B,T,R,C), dh0 (B,R,C) in the carry's dtype."""
    log_a, h, g = log_a.contiguous(), h.contiguous(), g.contiguous()
    dx, dh0 = torch.empty_like(h), h.new_empty((h.shape[0], *h.shape[2:]), dtype=carry)
    if h.numel() == 0:
        return torch.zeros_like(log_a), dx, dh0.zero_()
    kernels, geometry = _kernels(), _plan(h, implementation)
    sizes, partial = (*h.shape[1:], geometry.chunk), h.new_empty((geometry.blocks, *log_a.shape), dtype=carry)
    ends, products = _carries(h, geometry, carry)
    h0_data, launch = h if h0 is None else h0.contiguous(), geometry.launch(backward=True)
    with _device(h):
        if geometry.chunks > 1:
            kernels.backward_ends_kernel[geometry.grid](log_a, g, *sizes, ends, products, **launch)
        kernels.backward_kernel[geometry.grid](
            log_a, g, h, h0_data, ends, products, *sizes, partial, dx, dh0, HAS_H0=h0 is not None, **launch
        )
    return partial.sum(0).to(log_a.dtype), dx, dh0


def _carries(x, geometry, carry):
    """ends and products; one element where time is not split (then only their dtype is read)."""
    shapes = [(1,), (1,)]
    if geometry.chunks > 1:
        shapes = [(geometry.chunks, geometry.rows, x.shape[3]), (geometry.chunks, geometry.rows, 2)]
    return x.new_empty(shapes[0], dtype=carry), x.new_empty(shapes[1], dtype=torch.int32)


def _device(x):
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
