"""einsum over a causal convolution in time, as in `cssm.ops.fftconv`; differentiable more than once."""

from functools import reduce
from typing import Annotated

import torch
from torch import Tensor

from cssm.core.typing import Inexact
from cssm.shared.fft_plan import fast_length
from cssm.shared.fft_shapes import check_dtypes, conv_equation

from ..tensors import check_tensors
from .strategies import precision_of, transforms


def fft_conv(
    equation: str, input: Annotated[Tensor, "b t ..."], *args: Annotated[Tensor, "..."]
) -> Inexact[Tensor, "..."]:
    """einsum over a causal convolution in time, axis 1 of the input: see `cssm.ops.fft_conv`.

    Args:
      equation: "bli,loi->blo" for (input, kernel), "blh,ln,nh,on->blo" for (input, K, B, C) and the like. The kernel's
        time axis is the one with the input's letter; taps beyond the input's length are never reached and left out.

    Returns:
      The first L steps, in the promoted dtype of all operands: real where all of them are.

    Raises:
      UsageError: another number of operands, or an equation that cannot be read.
      ShapeError: sizes, ranks or dtypes that do not fit.

    >>> fft_conv("bln,ln->bln", torch.ones(1, 3, 1), torch.tensor([[1.0], [0.5]]))[0, :, 0].tolist()
    [1.0, 1.5, 1.5]
    """
    check_tensors("fft_conv", input, *args)
    operands = (input, *args)
    check_dtypes("fft_conv", **{f"operand {i}": a.dtype for i, a in enumerate(operands)})
    plan = conv_equation(equation, [tuple(a.shape) for a in operands])
    dtype, precision = reduce(torch.promote_types, (a.dtype for a in operands)), precision_of(*operands)[0]
    signal, kernel, *rest = (a.to(torch.promote_types(a.dtype, precision)) for a in operands)
    if plan.project_in:
        signal = _einsum(plan.project_in, signal, rest[0])
    signal = _convolve(plan, signal, kernel)
    return (_einsum(plan.project_out, signal, rest[1]) if plan.project_out else signal).to(dtype)


def _convolve(plan, signal, kernel):
    n = fast_length(plan.length + plan.taps - 1)
    forward, inverse = transforms(signal.is_complex() or kernel.is_complex(), n)
    kernel = kernel.narrow(plan.kernel_axis, 0, plan.taps)
    product = torch.einsum(plan.convolve, forward(signal, plan.input_axis), forward(kernel, plan.kernel_axis))
    return inverse(product, plan.output_axis).narrow(plan.output_axis, 0, plan.length)


def _einsum(equation, a, b):
    dtype = torch.promote_types(a.dtype, b.dtype)
    return torch.einsum(equation, a.to(dtype), b.to(dtype))
