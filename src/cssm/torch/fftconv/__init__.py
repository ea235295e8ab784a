"""FFT convolution for PyTorch, as in `cssm.ops.fftconv`."""

from .conv_nd import fft_conv2d, fft_conv_nd
from .einsum import fft_conv
from .scan import opt_ssm_scan
from .ssm import opt_ssm_forward

__all__ = ["fft_conv", "fft_conv2d", "fft_conv_nd", "opt_ssm_forward", "opt_ssm_scan"]
