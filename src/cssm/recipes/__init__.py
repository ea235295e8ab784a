"""Named runs: one function is one full run, with its command, hardware and expected score."""

from .paths import RECIPES
from .run import Report, Run, baseline_of, execute, load_run, load_saved, prepare

__all__ = ["RECIPES", "Report", "Run", "baseline_of", "execute", "load_run", "load_saved", "prepare"]
