"""What every set of labelled photographs has: the options of how they are seen, and encoded images behind them."""

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from ..dataset import DataSet, Spec, check_split, image_spec, root_of
from ..source import Sample, Source, take
from .crops import View
from .holdout import check_holdout, held_part, published_split, splits_with
from .opencv import opencv
from .records import FileSource


class Encoded(NamedTuple):
    """A photograph as it is stored."""

    data: bytes
    """A PNG or JPEG."""
    label: int


class EncodedImages(NamedTuple):
    """The photographs of a published split, by number."""

    size: int
    read: Callable[[int], Encoded]
    """Photograph i; raises DataError naming file and record."""
    where: Callable[[int], str]
    """File and record of photograph i."""
    labels: np.ndarray | None = None
    """(size,) int32, where they are known without reading."""
    left_out: tuple[str, ...] = ()
    """Messages on what could not even be listed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photographs(DataSet):
    """Labelled photographs from files: options, splits and samples; where they are is for the kinds to say."""

    root: Path | None = None
    """The data folder."""
    size: int = 224
    """Height and width, px."""
    crop_pct: float = 1.0
    """Evaluation: the short side is scaled to floor(size / crop_pct) and the centre of size x size cut out; 0.875 and
    0.95 are usual."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pixels are resampled, in training and evaluation, antialiased."""
    random_crop: float | None = None
    """Training: random crops of at least this share of the area, aspect 3/4 to 4/3, resized to size; 0.08 is usual for
    ImageNet. A crop depends on the run's seed and the place in the stream alone. None: the centre, as in evaluation."""
    decoder: Literal["pillow", "opencv"] = "pillow"
    """opencv (pip install 'cssm[opencv]') is faster; it shrinks by averages over areas, whatever the interpolation, so
    that pixels differ by some levels."""
    holdout: float = 0.0
    """Fraction of train that becomes val; the published val is then test, unless there is a test split."""
    skip_corrupt: bool = False
    """Leave unreadable images out, counted and logged, instead of raising."""

    baseline: ClassVar[str] = "majority"
    title: ClassVar[str]
    """How errors name the set."""

    def __post_init__(self):
        self.view()
        check_holdout(self.holdout)

    @property
    @abc.abstractmethod
    def published(self) -> tuple[str, ...]:
        """The splits that the files are in."""

    @abc.abstractmethod
    def encoded(self, split: str) -> EncodedImages:
        """The photographs of a published split as they are stored, in their published order."""

    @property
    def splits(self) -> tuple[str, ...]:
        return splits_with(self.published, self.holdout)

    @property
    def sample_spec(self) -> dict[str, Spec]:
        return image_spec(self.size, self.size, 3)

    def view(self) -> View:
        """What of a photograph is seen. Raises UsageError for options out of range."""
        return View(
            size=self.size,
            crop_pct=self.crop_pct,
            interpolation=self.interpolation,
            random_crop=self.random_crop,
            decoder=self.decoder,
        )

    def source(self, split: str = "train", *, size: int | None = None, seed: int | None = None) -> Source:
        """A split, or its first `size` samples; a seed puts them in another order. Train alone is cropped randomly."""
        root_of(self.root, self.title)
        check_split(self, self.title, split)
        if self.decoder == "opencv":
            opencv()
        images = self.encoded(published_split(split, self.published, self.holdout))
        source = seen(images, self.view(), random=split == "train", skip_corrupt=self.skip_corrupt)
        return take(held_part(source, split, self.holdout), size, seed)


def seen(images: EncodedImages, view: View, *, random: bool, skip_corrupt: bool) -> FileSource:
    """The samples of `images`, as `view` sees them; random: with its random crops, where it has any, in training."""

    def read(i: int, draw: int | None = None) -> Sample:
        data, label = images.read(i)
        return {"input": view(data, images.where(i), draw), "label": np.int32(label)}

    return FileSource(
        images.size,
        read,
        images.where,
        skip_corrupt=skip_corrupt,
        already_left_out=images.left_out,
        labels=images.labels,
        random=random and view.random_crop is not None,
    )
