"""The path tasks: PathTracker, Pathfinder, FeatureTracker. One function is one row of a results table."""

import dataclasses

from cssm.data import FeatureTracker, Pathfinder, PathTracker
from cssm.models import SimpleCSSMConfig
from cssm.tasks import Classify
from cssm.train import TrainConfig

from .registry import RECIPES
from .run import Run


@RECIPES.register("demo")
def demo() -> Run:
    """A spectral SSM learns to follow a dot: small PathTracker, minutes on two CPU cores.

    Command: `make demo`, or `cssm train demo`. Hardware: any CPU. Expected: validation accuracy >= .85, markers only
    about .50.
    """
    return Run(
        recipe="demo",
        data=PathTracker(frames=8, distractors=0),
        model=SimpleCSSMConfig(
            mixer_options={"memory": 8.0, "init_scale": 0.1}, embed_dim=24, seq_len=8, stem="pathtracker",
            position="none", norm="none", act="none",
        ),
        task=Classify(normalization="unit"),
        train=TrainConfig(steps=3000, batch_size=64, lr=1e-2, b2=0.98, warmup_steps=100, eval_every=500),
        train_size=1_000_000,
        val_size=2_000,
        test_size=4_000,
    )  # fmt: skip


@RECIPES.register("pathtracker")
def pathtracker() -> Run:
    """PathTracker, 32 frames, 14 distractors, matched foils: the protocol of source 003.

    Command: `cssm train pathtracker`. Hardware: one GPU. Expected: not yet measured here (published data, best
    validation: sCSSM 80.7; humans 90).
    """
    return Run(
        recipe="pathtracker",
        data=PathTracker(),
        model=SimpleCSSMConfig(seq_len=32, stem="pathtracker"),
        task=Classify(),
        train=TrainConfig(epochs=120, batch_size=128),
        train_size=72_900,
        val_size=8_100,
        test_size=10_000,
    )


@RECIPES.register("pathfinder")
def pathfinder() -> Run:
    """Pathfinder, contour length 14, 128 px, a static image for 8 frames: the protocol of source 003.

    Command: `cssm train pathfinder`. Hardware: one GPU. Expected: not yet measured here (published data, best
    validation: sCSSM 86.1; humans 89).
    """
    return Run(
        recipe="pathfinder",
        data=Pathfinder(difficulty=14),
        model=SimpleCSSMConfig(seq_len=8, stem="pathtracker"),
        task=Classify(),
        train=TrainConfig(epochs=120, batch_size=128),
        train_size=160_000,
        val_size=20_000,
        test_size=20_000,
    )


@RECIPES.register("featuretracker")
def featuretracker() -> Run:
    """FeatureTracker: follow a dot that changes hue, 32 frames, 10 distractors; the protocol of PathTracker.

    Command: `cssm train featuretracker`. Hardware: one GPU. Expected: not yet measured here.
    """
    return dataclasses.replace(pathtracker(), recipe="featuretracker", data=FeatureTracker())
