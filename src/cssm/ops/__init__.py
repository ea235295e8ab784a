"""Pure functions on arrays, one folder per operator."""

from . import goom
from .delta import decayed_attention, delta_rule, delta_static
from .fftconv import fft_conv, fft_conv2d, fft_conv_nd, opt_ssm_forward, opt_ssm_scan
from .s4 import s4_kernel, s4d_kernel
from .scan import decay_scan, decay_scan_cumsum, linear_scan
from .spectral import kernel_spectrum, spectral_pooled, spectral_scan, spectral_static, stable_spectrum

__all__ = [
    "decay_scan", "decay_scan_cumsum", "decayed_attention", "delta_rule", "delta_static", "fft_conv", "fft_conv2d",
    "fft_conv_nd", "goom", "kernel_spectrum", "linear_scan", "opt_ssm_forward", "opt_ssm_scan", "s4_kernel",
    "s4d_kernel", "spectral_pooled", "spectral_scan", "spectral_static", "stable_spectrum",
]  # fmt: skip
