"""What of a photograph a model sees: the centre, or in training a random crop, resized to a square."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cssm.core.errors import UsageError

from ..source import check_choice, check_range
from .images import centre, decode, read_encoded
from .opencv import centre_opencv, decode_opencv, resize_opencv

INTERPOLATIONS = ("bilinear", "bicubic")
DECODERS = ("pillow", "opencv")
TRIES = 10
ASPECTS = (3 / 4, 4 / 3)  # width to height of a random crop
Box = tuple[int, int, int, int]  # left, upper, right, lower, px


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """From the bytes of a PNG or JPEG to uint8 (size, size, 3): the centre or, where a draw is given, a random crop.

    Raises UsageError for options out of range and for opencv where it is not installed.

    >>> View(size=224, crop_pct=0.875).short
    256
    """

    size: int
    """Height and width, px."""
    crop_pct: float = 1.0
    """The centre is that of the image whose short side is scaled to floor(size / crop_pct)."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pixels are resampled, antialiased as Pillow does."""
    random_crop: float | None = None
    """The least share of the area of a random crop; None: draws change nothing."""
    decoder: Literal["pillow", "opencv"] = "pillow"
    """What decodes and resizes."""

    def __post_init__(self):
        check_range("size", self.size, 1, 4096)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        check_choice("decoder", self.decoder, DECODERS)
        if not 0.01 <= self.crop_pct <= 1:
            raise UsageError(f"crop_pct {self.crop_pct} is out of range: choose 0.01..1, 0.875 and 0.95 are usual")
        if self.random_crop is not None and not 0 < self.random_crop <= 1:
            raise UsageError(f"random_crop {self.random_crop} is no share of the area: choose 0..1, 0.08 is usual")

    @property
    def short(self) -> int:
        """What the short side is scaled to before the centre is cut out, px."""
        return math.floor(self.size / self.crop_pct)

    def __call__(self, data: bytes, where: str, draw: int | None = None) -> np.ndarray:
        """The pixels; `where` names file and record in errors, which are those of `images.decode_image`."""
        return self.cut(self.decoded(data, where), draw)

    def read(self, path: Path) -> np.ndarray:
        """The centre of an image file; DataError also when it cannot be opened."""
        return self(read_encoded(path), str(path))

    def decoded(self, data: bytes, where: str) -> Any:
        """The whole image, upright, in RGB: of Pillow, or an array of OpenCV's."""
        return decode_opencv(data, where) if self.decoder == "opencv" else decode(data, where)

    def cut(self, image: Any, draw: int | None = None) -> np.ndarray:
        """The part of a decoded image that is seen."""
        fast = self.decoder == "opencv"
        if draw is None or self.random_crop is None:
            cut = centre_opencv if fast else centre
            return np.asarray(cut(image, self.size, self.short, self.interpolation))
        width, height = image.shape[1::-1] if fast else image.size
        box = random_box(width, height, self.random_crop, draw)
        if fast:
            return resize_opencv(image[box[1] : box[3], box[0] : box[2]], (self.size, self.size), self.interpolation)
        from PIL import Image

        return np.asarray(image.resize((self.size, self.size), Image.Resampling[self.interpolation.upper()], box=box))


def random_box(width: int, height: int, least: float, draw: int) -> Box:
    """A random crop of an image, a function of the 64 bits of `draw`.

    Its share of the area is uniform on least..1, the logarithm of its aspect on log 3/4..log 4/3, its place anywhere
    in the image. Where ten tries fit in none (thin images), the largest centre whose aspect is in that range.

    >>> random_box(30, 10, 1.0, 7)
    (8, 0, 21, 10)
    """
    from ..rng import integer, uniform

    state = np.array([draw], np.uint64)
    low, high = np.log(ASPECTS)
    for _ in range(TRIES):
        area = width * height * (least + (1 - least) * uniform(state))
        aspect = math.exp(low + (high - low) * uniform(state))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, top = integer(state, width - across + 1), integer(state, height - down + 1)
            return left, top, left + across, top + down
    aspect = min(max(width / height, ASPECTS[0]), ASPECTS[1])
    across, down = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down
