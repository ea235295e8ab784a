"""Ten photographs: crops of them in changing light, by which photograph they are from: real images, offline.

The photographs ship inside scikit-image (eight) and scikit-learn (two). Each is cut across its longer side into eight
bands: crops of the third are validation, of the sixth the test, of the others training, so that no pixel is in two
splits and every split lies in the midst of the picture. Crops differ in place, scale, light and tint.
"""

import dataclasses
from functools import cache
from typing import Any, ClassVar

import numpy as np

from cssm.core.errors import UsageError

from .dataset import DATASETS, DataSet, Spec, check_split, image_spec
from .photos import Crops, temple_and_flower
from .source import Source, check_range, take

NAMES = (
    "astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field", "immunohistochemistry", "grass",
    "temple", "flower",
)  # fmt: skip
COUNTS = {"train": 2000, "val": 500, "test": 500}
BANDS = {"train": (0, 1, 3, 4, 6, 7), "val": (2,), "test": (5,)}  # of eight
SCALE = (0.5, 1.0)  # of the largest square that fits into a band
LIGHT, TINT = (0.5, 0.85), (0.85, 1.15)  # factors of all channels, of each: nothing is clipped


@DATASETS.register("ten_photographs")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TenPhotographs(DataSet):
    """Crops of ten photographs in changing light, by which they are from; 2,000 / 500 / 500 at fixed places.

    Raises UsageError when size is out of range, or, on use, when scikit-image or scikit-learn is not installed.

    >>> len(TenPhotographs().source("val"))
    500
    """

    size: int = 64
    """Height and width to which a crop is resized, px."""

    splits: ClassVar[tuple[str, ...]] = tuple(COUNTS)
    class_names: ClassVar[tuple[str, ...]] = NAMES
    baseline: ClassVar[str] = "majority"

    def __post_init__(self):
        check_range("size", self.size, 8, 1024)

    @property
    def sample_spec(self) -> dict[str, Spec]:
        return image_spec(self.size, self.size, 3)

    def source(self, split: str = "train", *, size: int | None = None, seed: int | None = None) -> Source:
        """The crops of a split, or the first `size` of them; a seed puts them in another order."""
        check_split(self, "ten_photographs", split)
        return take(TintedCrops(split, self.size), size, seed)


class TintedCrops(Crops):
    """The crops of a split: classes in turn, everything else drawn once."""

    def __init__(self, split: str, side: int):
        self._side, self._bands = side, [bands(picture)[list(BANDS[split])] for picture in photographs()]
        count, rng = COUNTS[split], np.random.RandomState(sorted(COUNTS).index(split))
        self._label = self.known_labels = (np.arange(count) % len(NAMES)).astype(np.int32)
        self._band = rng.randint(0, len(BANDS[split]), count)
        self._scale, self._place = rng.uniform(*SCALE, count), rng.uniform(0, 1, (count, 2))
        self._light = rng.uniform(*LIGHT, (count, 1)) * rng.uniform(*TINT, (count, 3))

    def crop(self, i: int) -> np.ndarray:
        from PIL import Image

        band = self._bands[self._label[i]][self._band[i]]
        side = self._scale[i] * min(band.shape[:2])
        top, left = self._place[i] * (np.array(band.shape[:2]) - side)
        box, size = (left, top, left + side, top + side), (self._side, self._side)
        crop = np.asarray(Image.fromarray(band).resize(size, Image.Resampling.BICUBIC, box=box))
        return (crop * self._light[i]).astype(np.uint8)


def bands(picture: np.ndarray) -> np.ndarray:
    """(8, h, w, 3): a photograph cut across its longer side; rows or columns that are left over are in none."""
    turned = picture.shape[0] < picture.shape[1]
    rows = picture.swapaxes(0, 1) if turned else picture
    cut = rows[: len(rows) // 8 * 8].reshape(8, -1, *rows.shape[1:])
    return np.ascontiguousarray(cut.swapaxes(1, 2) if turned else cut)


@cache
def photographs() -> list[np.ndarray]:
    """Those of `NAMES`, (h, w, 3) of 8 bits in RGB; none needs a download.

    Raises UsageError where scikit-image or scikit-learn is not installed.
    """
    from PIL import Image

    try:
        from skimage import data
    except ImportError as error:
        raise UsageError("eight of the photographs are part of scikit-image: pip install scikit-image") from error
    found: list[Any] = [getattr(data, name)() for name in NAMES[:-2]]
    return [np.asarray(Image.fromarray(picture).convert("RGB")) for picture in (*found, *temple_and_flower())]
