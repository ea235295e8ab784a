"""S4 for PyTorch: the layer, and its kernels as in `cssm.ops.s4`."""

from .layer import FFTConvS4

__all__ = ["FFTConvS4"]
