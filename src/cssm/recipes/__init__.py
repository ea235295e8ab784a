"""Named runs: one function is one full run, with its command, hardware and expected score."""

from . import images, paths
from .registry import RECIPES
from .run import (
    Report,
    Run,
    baseline_of,
    compiled,
    draw_predictions,
    execute,
    figures_of,
    load_run,
    load_saved,
    prepare,
)

__all__ = [
    "RECIPES", "Report", "Run", "baseline_of", "compiled", "draw_predictions", "execute", "figures_of", "images",
    "load_run", "load_saved", "paths", "prepare",
]  # fmt: skip
