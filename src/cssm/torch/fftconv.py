"""FFT convolutions, as in `cssm.ops.fftconv`: the same names, shapes and numbers; differentiable more than once."""

from functools import reduce

import torch

from cssm.core.fft_plan import SSM_STRATEGIES, choose_ssm_strategy, fast_length, ssm_length
from cssm.core.fft_shapes import check_dtypes, check_strategy, conv_equation, ssm_sizes

from .fftconv_nd import fft_conv2d, fft_conv_nd
from .fftconv_scan import opt_ssm_scan
from .fftconv_ssm import STRATEGIES, precision_of, same_precision, transforms

__all__ = ["fft_conv", "fft_conv2d", "fft_conv_nd", "opt_ssm_forward", "opt_ssm_scan"]


def opt_ssm_forward(x, K, B_, C, *, strategy=None, kernel_layout=None):
    """y[b, t, o] = Re sum_n C[o, n] sum_{j <= t} K[t - j, n] sum_h B_[n, h] x[b, j, h]; no Re for a complex x.

    Args:
      x: (B, L, H_in). K: (taps, N) or (N, taps). B_: (N, H_in). C: (H_out, N). Real or complex floating.
      strategy: "kernel", "projection", "fallback", or None to pick the fastest.
      kernel_layout: "length_first" or "state_first", needed where K is square.

    Returns:
      (B, L, H_out) in x's dtype.

    Raises:
      ShapeError: shapes or dtypes that do not fit. UsageError: an unknown strategy or kernel_layout.

    >>> x, one = torch.ones(1, 3, 1), torch.ones(1, 1)
    >>> opt_ssm_forward(x, torch.tensor([[1.0], [0.5], [0.25]]), one, one)[0, :, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    check_dtypes("opt_ssm_forward", x=x.dtype, K=K.dtype, B_=B_.dtype, C=C.dtype)
    check_strategy("opt_ssm_forward", strategy, SSM_STRATEGIES)
    sizes = ssm_sizes(x.shape, K.shape, B_.shape, C.shape, kernel_layout)
    K = (K.transpose(0, 1) if sizes.layout == "length_first" else K)[:, : sizes.taps]
    signal, K, B_, C = same_precision(x, K, B_, C)
    if strategy is None:
        real = {"real_parameters": not K.is_complex(), "real_input": not x.is_complex()}
        strategy = choose_ssm_strategy("torch", sizes, **real)
    return STRATEGIES[strategy](signal, K, B_, C, ssm_length(sizes)).to(x.dtype)


def fft_conv(equation, input, *args):
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
