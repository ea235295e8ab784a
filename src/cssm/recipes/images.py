"""Photographs: one's own folders, and the small public sets. One function is one row of a results table."""

from dataclasses import replace

from cssm.data import Digits, ImageFolder, Imagenette
from cssm.data.augment import FlipShift
from cssm.models import SimpleCSSMConfig
from cssm.tasks import Classify
from cssm.train import TrainConfig

from .registry import RECIPES
from .run import Run


@RECIPES.register("images")
def images() -> Run:
    """One's own photographs: DIR/CLASS/*.jpg, or DIR/{train,val,test}/CLASS/*.jpg.

    Command: `cssm train images --data-dir DIR`. Hardware: any CPU for some thousand images of 64 px. Expected: depends
    on the photographs; printed beside the most frequent class.
    """
    return Run(
        recipe="images",
        data=ImageFolder(size=64),
        model=SimpleCSSMConfig(embed_dim=48, depth=2, seq_len=4, stem="conv", position="none"),
        task=Classify(label_smoothing=0.1),
        augment=FlipShift(shift=4),
        train=TrainConfig(epochs=30, batch_size=32, warmup_steps=100, weight_decay=0.01),
    )


@RECIPES.register("imagenette")
def imagenette() -> Run:
    """Imagenette, ten classes of ImageNet: a tenth of train picks the checkpoint, the published val is the test.

    Command: `cssm train imagenette --data-dir DIR` (DIR holds imagenette2, -320 or -160). Hardware: one GPU; a CPU
    for a look. Expected: not yet measured here.
    """
    own = images()
    data = Imagenette(size=128, holdout=0.1)
    return replace(own, recipe="imagenette", data=data, model=replace(own.model, embed_dim=96, stem_layers=3))


@RECIPES.register("digits")
def digits() -> Run:
    """Handwritten digits of scikit-learn, 8 px, ten classes: real images, offline, a minute on a CPU.

    Command: `cssm train digits`. Hardware: any CPU (19 s on two cores). Expected: validation accuracy .95, test .93
    (270 images each, seed 42); the most frequent class .07 and .09.
    """
    own = images()
    return replace(
        own,
        recipe="digits",
        data=Digits(),
        model=replace(own.model, embed_dim=32, stem="pixel"),
        task=Classify(normalization="unit"),
        augment=FlipShift(flip=0.0, shift=1),
        train=TrainConfig(epochs=20, batch_size=32, warmup_steps=50),
    )
