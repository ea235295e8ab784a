"""Named runs: one function is one full run, with its command, hardware and expected score."""

from . import images, paths, tracking
from .predictions import Prediction, predict
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
    sums_of,
)

__all__ = [
    "RECIPES", "Prediction", "Report", "Run", "baseline_of", "compiled", "draw_predictions", "execute", "figures_of",
    "images", "load_run", "load_saved", "paths", "predict", "prepare", "sums_of",
    "tracking",
]  # fmt: skip
