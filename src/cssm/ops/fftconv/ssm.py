"""The convolution form of a state-space model, by the cheapest order of its products."""

from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from cssm.core.typing import Inexact
from cssm.shared.fft_plan import SSM_STRATEGIES, choose_ssm_strategy, ssm_length
from cssm.shared.fft_shapes import check_dtypes, check_strategy, ssm_sizes

from .strategies import STRATEGIES


def opt_ssm_forward(
    x: Annotated[ArrayLike, "b t i"],
    K: Annotated[ArrayLike, "l n"],
    B_: Annotated[ArrayLike, "n i"],
    C: Annotated[ArrayLike, "o n"],
    *,
    strategy: str | None = None,
    kernel_layout: str | None = None,
) -> Inexact[Array, "b t o"]:
    """Project the input to N states, convolve each with its own kernel, project to the output.

    Equivalent to::

        y[b, t, o] = Re sum_n C[o, n] sum_{j <= t} K[t - j, n] sum_h B_[n, h] x[b, j, h]

    Args:
      x: (B, L, H_in), real or complex; a complex x gives the complex y, without Re.
      K: (taps, N) as documented by source 004, or (N, taps) as its code has it. Fewer taps than L stand for zeros
        after them; taps after L reach no output and are left out.
      B_: (N, H_in). C: (H_out, N).
      strategy: "kernel" (one convolution by Re(C K B_), of H_out H_in kernels), "projection" (N convolutions between
        two products over time), "fallback" (all products at every frequency, H_in + H_out transforms), or None to
        pick the fastest. All give the same numbers.
      kernel_layout: "length_first" for (taps, N), "state_first" for (N, taps); of a square K: the
        second, with a warning, where it is not said.

    Returns:
      (B, L, H_out) in x's dtype; computed in float32 / complex64, or double where any argument is.

    Raises:
      ShapeError: shapes that do not fit, a dtype that is not real or complex floating, a full kernel (L, H_out, H_in).
      UsageError: an unknown strategy or kernel_layout.

    Source: docs/math.md section 5; arXiv 2409.03377.

    >>> import jax.numpy as jnp
    >>> x, one = jnp.ones((1, 3, 1)), jnp.ones((1, 1))
    >>> opt_ssm_forward(x, jnp.array([[1.0], [0.5], [0.25]]), one, one)[0, :, 0].round(4).tolist()
    [1.0, 1.5, 1.75]
    """
    x, K, B_, C = (jnp.asarray(a) for a in (x, K, B_, C))
    check_dtypes("opt_ssm_forward", x=x.dtype, K=K.dtype, B_=B_.dtype, C=C.dtype)
    check_strategy("opt_ssm_forward", strategy, SSM_STRATEGIES)
    sizes = ssm_sizes(x.shape, K.shape, B_.shape, C.shape, kernel_layout)
    K = (K.T if sizes.layout == "length_first" else K)[:, : sizes.taps]
    signal, K, B_, C = same_precision(x, K, B_, C)
    if strategy is None:
        real = {"real_parameters": not jnp.iscomplexobj(K), "real_input": not jnp.iscomplexobj(x)}
        strategy = choose_ssm_strategy("jax", sizes, **real)
    return STRATEGIES[strategy](signal, K, B_, C, ssm_length(sizes)).astype(x.dtype)


def same_precision(x: Inexact[Any, "..."], *parameters: Inexact[Any, "..."]) -> tuple[Any, ...]:
    """x and the parameters in one precision, at least float32, the parameters all real or all complex.

    Real where x is real and at most one of them complex: then only their real parts reach the real part of y.
    """
    precision = real_precision(x, *parameters)
    wide = jnp.promote_types(precision, jnp.complex64)
    if jnp.iscomplexobj(x) or sum(jnp.iscomplexobj(p) for p in parameters) > 1:
        parameters = tuple(p.astype(wide) for p in parameters)
    else:
        parameters = tuple(p.real.astype(precision) for p in parameters)
    return x.astype(wide if jnp.iscomplexobj(x) else precision), *parameters


def real_precision(*arrays: Inexact[Any, "..."]) -> Any:
    """float32, or float64 where an array is of double precision."""
    return jnp.finfo(jnp.result_type(jnp.float32, *(a.dtype for a in arrays))).dtype
