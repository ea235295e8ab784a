"""Causal convolution over time inside an einsum."""

from typing import Annotated

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from cssm.core.typing import Inexact
from cssm.shared.fft_plan import fast_length
from cssm.shared.fft_shapes import check_dtypes, conv_equation

from .ssm import real_precision
from .strategies import einsum, transforms


def fft_conv(
    equation: str, input: Annotated[ArrayLike, "b t ..."], *args: Annotated[ArrayLike, "..."]
) -> Inexact[Array, "..."]:
    """An einsum whose product over time, axis 1 of the input, is a causal convolution.

    "bli,loi->blo" is, for one kernel::

        y[b, t, o] = sum_i sum_{j <= t} kernel[t - j, o, i] input[b, j, i]

    and "blh,ln,nh,on->blo" for (K, B, C) is `opt_ssm_forward` without the real part.

    Args:
      equation: one term of distinct letters per operand and one for the output. The letter of axis 1 of the input is
        time: the kernel and the output have it, wherever it stands, and B and C do not.
      input: any rank from 2 on, real or complex.
      args: the kernel, or the three of K, B and C. A kernel shorter than the input stands for zeros after it; taps
        after the input's length reach no output and are left out, so that nothing ever wraps around.

    Returns:
      The first L steps, in the promoted dtype of all operands: real where every one is real (the reference code always
      returns complex), computed in at least float32. B is applied before the transform, C after it.

    Raises:
      UsageError: another number of operands, or an equation that cannot be read.
      ShapeError: sizes, ranks or dtypes that do not fit, or time where it cannot be.

    Source: docs/math.md section 5; source 004.

    >>> import jax.numpy as jnp
    >>> fft_conv("bln,ln->bln", jnp.ones((1, 3, 1)), jnp.array([[1.0], [0.5]]))[0, :, 0].round(4).tolist()
    [1.0, 1.5, 1.5]
    """
    operands = [jnp.asarray(a) for a in (input, *args)]
    check_dtypes("fft_conv", **{f"operand {i}": a.dtype for i, a in enumerate(operands)})
    plan = conv_equation(equation, [a.shape for a in operands])
    dtype, precision = jnp.result_type(*operands), real_precision(*operands)
    signal, kernel, *rest = (a.astype(jnp.promote_types(a.dtype, precision)) for a in operands)
    if plan.project_in:
        signal = einsum(plan.project_in, signal, rest[0])
    signal = _convolve(plan, signal, kernel)
    return (einsum(plan.project_out, signal, rest[1]) if plan.project_out else signal).astype(dtype)


def _convolve(plan, signal, kernel):
    is_complex = jnp.iscomplexobj(signal) or jnp.iscomplexobj(kernel)
    forward, inverse = transforms(is_complex, fast_length(plan.length + plan.taps - 1))
    kernel = lax.slice_in_dim(kernel, 0, plan.taps, axis=plan.kernel_axis)
    product = einsum(plan.convolve, forward(signal, plan.input_axis), forward(kernel, plan.kernel_axis))
    return lax.slice_in_dim(inverse(product, plan.output_axis), 0, plan.length, axis=plan.output_axis)
