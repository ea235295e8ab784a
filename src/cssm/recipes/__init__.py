"""Named runs: one function is one full run, with its command, hardware and expected score."""

from . import imagenet, images, paths, self_supervised, tracking
from .predictions import Prediction, predict
from .prepare import prepare
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
    sums_of,
)

__all__ = [
    "RECIPES", "Prediction", "Report", "Run", "baseline_of", "compiled", "draw_predictions", "execute", "figures_of",
    "imagenet", "images", "load_run", "load_saved", "paths", "predict", "prepare", "self_supervised", "sums_of",
    "tracking",
]  # fmt: skip
