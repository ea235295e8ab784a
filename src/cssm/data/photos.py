"""Photos: crops of the two photographs inside scikit-learn, ten classes of places in them: real textures, offline.

Each photograph (427 x 640 pixels: a Chinese temple, a flower) is cut into five strips side by side, which are the
classes. Training crops come from the upper 60% of a strip, validation from the next 20%, test from the lowest: no pixel
is in two splits, and what is below another part looks different. A linear classifier of pixels does badly.
"""

import abc
import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np

from cssm.core.errors import UsageError

from .dataset import DATASETS, DataSet, Spec, check_split, image_spec
from .source import Batch, Source, check_range, checked_indices, take

STRIPS = 5
PARTS = {"train": (0.0, 0.6, 2000), "val": (0.6, 0.8, 500), "test": (0.8, 1.0, 500)}  # of the height; crops
NAMES = ("temple", "flower")


@DATASETS.register("photos")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Photos(DataSet):
    """Crops of two photographs, by which of ten strips they come from; 2,000 / 500 / 500 at fixed places.

    Raises UsageError when size is out of range, or, on use, when scikit-learn is not installed.

    >>> len(Photos().source("val"))
    500
    """

    size: int = 32
    """Height and width of a crop, px, at most 80."""

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    class_names: ClassVar[tuple[str, ...]] = tuple(f"{name} {i + 1}" for name in NAMES for i in range(STRIPS))
    baseline: ClassVar[str] = "majority"

    def __post_init__(self):
        check_range("size", self.size, 8, 80)

    @property
    def sample_spec(self) -> dict[str, Spec]:
        return image_spec(self.size, self.size, 3)

    def source(self, split: str = "train", *, size: int | None = None, seed: int | None = None) -> Source:
        """The crops of a split, or the first `size` of them; a seed puts them in another order."""
        check_split(self, "photos", split)
        return take(PhotoCrops(split, self.size), size, seed)


class Crops(Source):
    """Crops that are made when they are asked for. A subclass sets `_label`, int32, and gives `crop`."""

    _label: np.ndarray

    @abc.abstractmethod
    def crop(self, i: int) -> np.ndarray:
        """(side, side, 3), 8 bits."""

    def __len__(self) -> int:
        return len(self._label)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        indices = checked_indices(indices, len(self))
        return {"input": np.stack([self.crop(int(i)) for i in indices]), "label": self._label[indices]}


class PhotoCrops(Crops):
    """The crops of a split: classes in turn, places drawn once."""

    def __init__(self, split: str, side: int):
        self._photos, self._side = temple_and_flower(), side
        upper, lower, count = PARTS[split]
        height, width = self._photos.shape[1:3]
        rng, strip = np.random.RandomState(sorted(PARTS).index(split)), width // STRIPS
        self._label = self.known_labels = (np.arange(count) % (len(NAMES) * STRIPS)).astype(np.int32)
        low, high = int(upper * height), int(lower * height)
        self._top = rng.randint(low, high - side + 1, count)
        self._left = self._label % STRIPS * strip + rng.randint(0, strip - side + 1, count)

    def crop(self, i: int) -> np.ndarray:
        top, left, side = self._top[i], self._left[i], self._side
        return self._photos[self._label[i] // STRIPS, top : top + side, left : left + side]


@cache
def temple_and_flower() -> np.ndarray:
    """(2, 427, 640, 3), 8 bits. Raises UsageError where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise UsageError("the photographs are part of scikit-learn: pip install scikit-learn") from error
    images: Any = load_sample_images().images
    return np.stack(images)
