"""A state space as one FFT convolution, as in `cssm.ops.fftconv`; differentiable more than once."""

from typing import Annotated

from torch import Tensor

from cssm.core.typing import Inexact
from cssm.shared.fft_plan import SSM_STRATEGIES, choose_ssm_strategy, ssm_length
from cssm.shared.fft_shapes import check_dtypes, check_strategy, ssm_sizes

from ..tensors import check_tensors
from .strategies import STRATEGIES, same_precision


def opt_ssm_forward(
    x: Annotated[Tensor, "b t i"],
    K: Annotated[Tensor, "l n"],
    B_: Annotated[Tensor, "n i"],
    C: Annotated[Tensor, "o n"],
    *,
    strategy: str | None = None,
    kernel_layout: str | None = None,
) -> Inexact[Tensor, "b t o"]:
    """y[b, t, o] = Re sum_n C[o, n] sum_{j <= t} K[t - j, n] sum_h B_[n, h] x[b, j, h]; no Re for a complex x.

    Args:
      x: (B, L, H_in). K: (taps, N) or (N, taps). B_: (N, H_in). C: (H_out, N). Real or complex floating.
      strategy: "kernel", "projection", "fallback", or None to pick the fastest.
      kernel_layout: "length_first" or "state_first"; of a square K: the second, with a warning, where it is not said.

    Returns:
      (B, L, H_out) in x's dtype.

    Raises:
      ShapeError: shapes or dtypes that do not fit. UsageError: an unknown strategy or kernel_layout.

    >>> import torch
    >>> x, one = torch.ones(1, 3, 1), torch.ones(1, 1)
    >>> opt_ssm_forward(x, torch.tensor([[1.0], [0.5], [0.25]]), one, one)[0, :, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    check_tensors("opt_ssm_forward", x, K, B_, C)
    check_dtypes("opt_ssm_forward", x=x.dtype, K=K.dtype, B_=B_.dtype, C=C.dtype)
    check_strategy("opt_ssm_forward", strategy, SSM_STRATEGIES)
    sizes = ssm_sizes(x.shape, K.shape, B_.shape, C.shape, kernel_layout)
    K = (K.transpose(0, 1) if sizes.layout == "length_first" else K)[:, : sizes.taps]
    signal, K, B_, C = same_precision(x, K, B_, C)
    if strategy is None:
        real = {"real_parameters": not K.is_complex(), "real_input": not x.is_complex()}
        strategy = choose_ssm_strategy("torch", sizes, **real)
    return STRATEGIES[strategy](signal, K, B_, C, ssm_length(sizes)).to(x.dtype)
