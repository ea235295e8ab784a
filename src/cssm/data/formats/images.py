"""Encoded still images to uint8 RGB: PNG and JPEG, grey, palette, CMYK; hostile sizes are refused before decoding.

An image is turned as its EXIF orientation says, which phones set; transparency is dropped.
"""

import io
import struct
from pathlib import Path

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
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > LARGEST:
                raise DataError(f"{where}: {image.width} x {image.height} px, more than {LARGEST}")
            if image.mode not in MODES or _deep(data):
                found = "16 bits a channel" if _deep(data) else f"pixels of mode {image.mode!r}"
                raise DataError(f"{where}: {found}, expected 8 bits a channel: convert the image first")
            image = _upright(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"  # that one names a buffer of ours
        raise DataError(f"{where}: not a whole PNG or JPEG image{why}") from error
    if size is None:
        return np.asarray(image)
    if crop:
        image = _centre(image, size)
        return np.asarray(image)
    return np.asarray(image) if image.size == (size, size) else resize_image(np.asarray(image), size)


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
    try:
        turn = turns.get(image.getexif().get(ORIENTATION, 1))
    except (struct.error, TypeError, ValueError, OSError, SyntaxError):  # what Pillow raises at damaged EXIF data
        return image
    return image if turn is None else image.transpose(turn)


def _centre(image, size: int):
    """The centre (size, size) of the image scaled to a short side of `size`.

    A thin image, which scaled would be huge, is cut before: the same picture, off by 1 of 255 where rounding is even.
    """
    from PIL import Image

    scale, bilinear = size / min(image.size), Image.Resampling.BILINEAR
    width, height = max(size, round(image.width * scale)), max(size, round(image.height * scale))
    left, top = (width - size) // 2, (height - size) // 2
    if width * height <= SCALED:
        return image.resize((width, height), bilinear).crop((left, top, left + size, top + size))
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), bilinear, box=box)


def read_image(path: Path, *, size: int | None = None, crop: bool = False) -> np.ndarray:
    """`decode_image` of a file; DataError also when it cannot be opened."""
    try:
        data = read_small(path, LARGEST_FILE)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_image(data, str(path), size=size, crop=crop)


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
