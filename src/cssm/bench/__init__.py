"""The benchmark: interleaved comparisons in JAX and PyTorch, checked before they are timed."""

from . import augment, delta, fftconv, goom, hosts, mechanism, mixers, models, s4, scan, spectral, spectral_cpu, tracker  # noqa: F401
from .frameworks import has_torch
from .harness import Comparison, Incorrect, Timing, copy_bandwidth, run
from .registry import MODEL_BENCHES, OP_BENCHES, SWEEP_BENCHES
from .report import record, save, show

__all__ = [
    "MODEL_BENCHES", "OP_BENCHES", "SWEEP_BENCHES", "Comparison", "Incorrect", "Timing", "copy_bandwidth", "has_torch",
    "record", "run", "save", "show",
]  # fmt: skip
