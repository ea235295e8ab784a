"""Recipes of point tracking: one function, one full run."""

from dataclasses import replace

from cssm.data.tracks import Tracks
from cssm.models.tracker import TrackerConfig
from cssm.tasks.track import Track
from cssm.train import TrainConfig

from .registry import RECIPES
from .run import Run


@RECIPES.register("tracker_small")
def tracker_small() -> Run:
    """Point tracking on composed videos: 24 frames of 128 px, 32 points; three quarters of an hour on two CPU cores.

    Command: `cssm train tracker_small`. Hardware: two CPU cores. Expected: AJ .57 on validation (measured when the
    loss of a place was linear from 4 px on), standing still .28; .60 after 1,600 steps more (docs/tracking.md).
    """
    return Run(
        recipe="tracker_small",
        model=TrackerConfig(),
        task=Track(),
        data=Tracks(start="any"),
        train=TrainConfig(
            steps=1600, batch_size=4, lr=3e-3, weight_decay=1e-4, warmup_steps=100, ema=0.999, eval_every=200, seed=0,
            log_every=20,
        ),
        train_size=100_000,
        val_size=64,
        test_size=100,
    )  # fmt: skip


@RECIPES.register("tracker_base")
def tracker_base() -> Run:
    """Point tracking at 256 px, wider features, 64 points: a day on one GPU.

    Command: `cssm train tracker_base`. Hardware: one GPU of 80 GB. Expected: not yet measured here.
    """
    small = tracker_small()
    return replace(
        small,
        recipe="tracker_base",
        model=TrackerConfig(fine=96, coarse=128, blocks=(2, 6), groups=8, search=64, channels=32, hidden=256),
        data=Tracks(frames=32, size=256, points=64, start="any"),
        train=replace(
            small.train, steps=100_000, batch_size=16, lr=5e-4, warmup_steps=2000, ema=0.9998, eval_every=5000,
            log_every=50,
        ),
        train_size=1_000_000,
    )  # fmt: skip
