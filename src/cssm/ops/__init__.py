"""Pure functions on arrays, one folder per operator."""

from . import goom
from .scan import decay_scan, decay_scan_cumsum, linear_scan
from .spectral import kernel_spectrum, spectral_pooled, spectral_scan, spectral_static, stable_spectrum

__all__ = [
    "decay_scan", "decay_scan_cumsum", "goom", "kernel_spectrum", "linear_scan", "spectral_pooled", "spectral_scan",
    "spectral_static", "stable_spectrum",
]  # fmt: skip
