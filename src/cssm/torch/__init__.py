"""The operators of `cssm.ops` and the S4 layers for PyTorch: the same names, the same shapes, the same numbers.

Imports torch, never jax. Everything is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("cssm.torch needs PyTorch: pip install 'cssm[torch]' (a CPU build will do)") from error

if TYPE_CHECKING:  # what editors and type checkers see
    from .delta import decayed_attention, delta_rule
    from .fftconv import fft_conv, fft_conv2d, fft_conv_nd, opt_ssm_forward, opt_ssm_scan
    from .s4 import FFTConvS4
    from .scan import DecaySSM, decay_scan, decay_scan_cumsum, ssm_scan_triton
    from .spectral import kernel_spectrum, spectral_scan, spectral_static, stable_spectrum

__all__ = [
    "DecaySSM", "FFTConvS4", "decay_scan", "decay_scan_cumsum", "decayed_attention", "delta_rule", "fft_conv",
    "fft_conv2d", "fft_conv_nd", "kernel_spectrum", "opt_ssm_forward", "opt_ssm_scan", "spectral_scan",
    "spectral_static", "ssm_scan_triton", "stable_spectrum",
]  # fmt: skip

_FOLDERS = {
    "delta": ("decayed_attention", "delta_rule"),
    "fftconv": ("fft_conv", "fft_conv2d", "fft_conv_nd", "opt_ssm_forward", "opt_ssm_scan"),
    "s4": ("FFTConvS4",),
    "scan": ("DecaySSM", "decay_scan", "decay_scan_cumsum", "ssm_scan_triton"),
    "spectral": ("kernel_spectrum", "spectral_scan", "spectral_static", "stable_spectrum"),
}
_WHERE = {name: folder for folder, names in _FOLDERS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"cssm.torch.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'cssm.torch' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
