"""Digits: 1,797 real 8x8 images of handwritten digits, ten classes, shipped inside scikit-learn: real data offline.

UCI "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak, 1998).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from cssm.core.errors import UsageError

from .dataset import DATASETS, DataSet, Spec, check_split, image_spec
from .source import Batch, Source, Subset, check_range, checked_indices, take

ENDS = {"train": (0, 1257), "val": (1257, 1527), "test": (1527, 1797)}


@DATASETS.register("digits")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(DataSet):
    """Handwritten digits; splits of 1,257 / 270 / 270 from one fixed permutation, in its order.

    Raises UsageError when size is no multiple of 8, or, on use, when scikit-learn is not installed.

    >>> len(Digits().source("val"))
    270
    """

    size: int = 8
    """Height and width, px, a multiple of 8: every pixel becomes a square."""

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    class_names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    baseline: ClassVar[str] = "majority"

    def __post_init__(self):
        check_range("size", self.size, 8, 4096)
        if self.size % 8:
            raise UsageError(f"size {self.size} is no multiple of 8: choose {self.size // 8 * 8}")

    @property
    def sample_spec(self) -> dict[str, Spec]:
        return image_spec(self.size, self.size, 3)

    def source(self, split: str = "train", *, size: int | None = None, seed: int | None = None) -> Source:
        """The images of a split, or the first `size` of them; a seed puts them in another order."""
        check_split(self, "digits", split)
        images = DigitsSource(self.size)
        order = np.random.RandomState(0).permutation(len(images))
        return take(Subset(images, order[slice(*ENDS[split])]), size, seed)


class DigitsSource(Source):
    """All the images, in the order of scikit-learn."""

    def __init__(self, size: int):
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UsageError("the digits are part of scikit-learn: pip install scikit-learn") from error
        digits: Any = load_digits()
        self._image = np.clip(digits.images * 16, 0, 255).astype(np.uint8)
        self._label = self.known_labels = digits.target.astype(np.int32)
        self._zoom = size // 8

    def __len__(self) -> int:
        return len(self._label)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        indices = checked_indices(indices, len(self))
        image = self._image[indices].repeat(self._zoom, 1).repeat(self._zoom, 2)
        return {"input": np.stack([image] * 3, axis=-1), "label": self._label[indices]}
