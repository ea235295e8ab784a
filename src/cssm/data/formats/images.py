"""Encoded still images to uint8 RGB: PNG and JPEG, grey, palette, CMYK; hostile sizes are refused before decoding.

Which part of a photograph a model sees is decided in `crops`. An image is turned as its EXIF orientation says, which
phones set; transparency is dropped.
"""

import io
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cssm.core.errors import DataError
from cssm.core.files import read_small

LARGEST = 64_000_000  # px
LARGEST_FILE = 2**29  # bytes
SCALED = 16_000_000  # px of a scaled image
ORIENTATION = 0x0112  # EXIF tag
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")


def decode_image(data: bytes, where: str, *, size: int | None = None, crop: bool = False) -> np.ndarray:
    """uint8 (h, w, 3) of a PNG or JPEG.

    Args:
        data: the encoded image.
        where: names the file and record in errors.
        size: height and width to resize to, bilinearly as Pillow does; None keeps the image's own.
        crop: first scale the short side to `size`, then cut out the centre; otherwise the aspect ratio changes.

    Raises DataError when the data are no whole PNG or JPEG, have more than 64 million pixels, or 16 bits a channel.
    """
    image = decode(data, where)
    if size is None:
        return np.asarray(image)
    if crop:
        return np.asarray(centre(image, size, size))
    return np.asarray(image) if image.size == (size, size) else resize_image(np.asarray(image), size)


def decode(data: bytes, where: str) -> Any:
    """The Pillow image in RGB, upright, of a PNG or JPEG; errors as `decode_image`."""
    with opened(data, where) as image:
        return _upright(image).convert("RGB")


@contextmanager
def opened(data: bytes, where: str) -> Iterator[Any]:
    """The Pillow image of a PNG or JPEG whose header is read and checked, and whose pixels are not decoded yet.

    Raises DataError as `decode_image`, also for what goes wrong within the block.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > LARGEST:
                raise DataError(f"{where}: {image.width} x {image.height} px, more than {LARGEST}")
            if image.mode not in MODES or _deep(data):
                found = "16 bits a channel" if _deep(data) else f"pixels of mode {image.mode!r}"
                raise DataError(f"{where}: {found}, expected 8 bits a channel: convert the image first")
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"  # that one names a buffer of ours
        raise DataError(f"{where}: not a whole PNG or JPEG image{why}") from error


def _deep(data: bytes) -> bool:
    """Whether a PNG has 16 bits a channel, of which Pillow would keep the high byte of RGB, RGBA and LA in silence."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x10"


def _upright(image):
    """The image turned by its EXIF orientation, 1..8; as it is where that cannot be read."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
    }  # fmt: skip
    turn = turns.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image) -> int:
    """The EXIF orientation of a Pillow image, 1..8; 1, upright, where that cannot be read."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except (struct.error, TypeError, ValueError, OSError, SyntaxError):  # what Pillow raises at damaged EXIF data
        return 1


def centre(image, size: int, short: int, interpolation: str = "bilinear"):
    """The centre (size, size) of the Pillow image scaled to a short side of `short` px, the long one rounded down.

    A thin image, which scaled would be huge, is cut before: the same picture, off by 1 of 255 where rounding is even.
    """
    from PIL import Image

    (width, height), (left, top) = centre_of(image.size, size, short)
    kind = Image.Resampling[interpolation.upper()]
    if width * height <= SCALED:
        return image.resize((width, height), kind).crop((left, top, left + size, top + size))
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), kind, box=box)


def centre_of(sides: tuple[int, int], size: int, short: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of an image of `sides` scaled to a short side of `short`, and where its centre of `size` begins.

    >>> centre_of((500, 375), 224, 256)
    ((341, 256), (58, 16))
    """
    scaled: Any = tuple(short if n == min(sides) else math.floor(short * n / min(sides)) for n in sides)
    begin: Any = tuple(round((n - size) / 2) for n in scaled)
    return scaled, begin


def read_image(path: Path, *, size: int | None = None, crop: bool = False) -> np.ndarray:
    """`decode_image` of a file; DataError also when it cannot be opened."""
    return decode_image(read_encoded(path), str(path), size=size, crop=crop)


def read_encoded(path: Path) -> bytes:
    """The bytes of an image file; DataError when it cannot be opened or is too large to be one."""
    try:
        return read_small(path, LARGEST_FILE)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (h, w, 3) resized to (size, size, 3), bilinearly as Pillow does."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def denormalise(values: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...], where: str) -> np.ndarray:
    """uint8 pixels of float pixels that were normalised as (x / 255 - mean) / std; the inverse is exact.

    Raises DataError when the values cannot have come from 0..255 in that way.
    """
    pixels = (values * np.array(std, np.float32) + np.array(mean, np.float32)) * 255
    if not (pixels.min() > -0.5 and pixels.max() < 255.5):  # also false for NaN
        raise DataError(f"{where}: not normalised with mean {mean} and std {std}: pixels outside 0..255")
    return np.rint(pixels).astype(np.uint8)
