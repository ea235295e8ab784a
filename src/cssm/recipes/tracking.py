"""Recipes of point tracking: one function, one full run."""

from cssm.data.tracks import Tracks
from cssm.models.tracker import TrackerConfig
from cssm.tasks.track import Track
from cssm.train import TrainConfig

from .registry import RECIPES
from .run import Run


@RECIPES.register("tracker_small")
def tracker_small() -> Run:
    """Point tracking on composed videos: 24 frames of 128 px, 32 points; an hour on two CPU cores.

    Command: `cssm train tracker_small`. Hardware: two CPU cores. Expected: see docs/tracking.md.
    """
    return Run(
        recipe="tracker_small",
        model=TrackerConfig(),
        task=Track(),
        data=Tracks(start="any"),
        train=TrainConfig(
            steps=3000, batch_size=4, lr=1e-3, weight_decay=1e-4, warmup_steps=200, ema=0.999, eval_every=500, seed=0,
            log_every=20,
        ),
        train_size=100_000,
        val_size=64,
        test_size=100,
    )  # fmt: skip
