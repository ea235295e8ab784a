"""The operators of `cssm.ops` and the S4 layers for PyTorch: the same names, the same shapes, the same numbers.

Imports torch, never jax. Everything is loaded when it is first used.
"""

import importlib
from typing import Any

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("cssm.torch needs PyTorch: pip install 'cssm[torch]' (a CPU build will do)") from error

_WHERE = {
    "decay_scan": "scan", "decay_scan_cumsum": "scan", "ssm_scan_triton": "scan", "DecaySSM": "scan",
    "fft_conv": "fftconv", "opt_ssm_forward": "fftconv", "opt_ssm_scan": "fftconv", "fft_conv_nd": "fftconv",
    "fft_conv2d": "fftconv", "FFTConvS4": "s4", "kernel_spectrum": "spectral", "stable_spectrum": "spectral",
    "spectral_scan": "spectral", "spectral_static": "spectral", "delta_rule": "delta", "decayed_attention": "delta",
}  # fmt: skip

__all__ = [*_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"cssm.torch.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'cssm.torch' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
