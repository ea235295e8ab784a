"""S4 for PyTorch: the layer, and its kernels as in `cssm.ops.s4`."""

from .layer import FFTConvS4, parameter_groups

__all__ = ["FFTConvS4", "parameter_groups"]
