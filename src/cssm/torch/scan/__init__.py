"""The decay scan for PyTorch, as in `cssm.ops.scan`."""

from .decay import decay_scan, decay_scan_cumsum, ssm_scan_triton
from .decay_ssm import DecaySSM

__all__ = ["DecaySSM", "decay_scan", "decay_scan_cumsum", "ssm_scan_triton"]
