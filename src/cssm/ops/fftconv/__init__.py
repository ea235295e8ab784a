"""FFT convolution: state-space models as convolutions, einsums over time, large kernels over images and video.

The maths and the cost of each strategy are in this folder's README.md.
"""

from .conv_nd import fft_conv2d, fft_conv_nd
from .einsum import fft_conv
from .reference import opt_ssm_forward_direct, opt_ssm_forward_reference
from .scan import opt_ssm_scan
from .ssm import opt_ssm_forward

__all__ = [
    "fft_conv", "fft_conv2d", "fft_conv_nd", "opt_ssm_forward", "opt_ssm_forward_direct", "opt_ssm_forward_reference",
    "opt_ssm_scan",
]  # fmt: skip
