"""The benchmark: interleaved comparisons, checked before they are timed."""

from .cases import BENCHES
from .harness import Comparison, Incorrect, Timing, run
from .report import save, show

__all__ = ["BENCHES", "Comparison", "Incorrect", "Timing", "run", "save", "show"]
