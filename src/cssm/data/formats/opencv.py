"""The faster decoder, of the extra `opencv`: the same checks, made on the header by Pillow before anything is decoded.

OpenCV decodes JPEGs of 8-bit RGB and grey; other images are decoded by Pillow. It may give the beginning of a JPEG that
is cut off without saying so, by its release: the end is looked for first.
"""

import functools
import importlib.util
from typing import Any

import numpy as np

from cssm.core.errors import DataError, UsageError

from .images import SCALED, centre_of, decode, opened, orientation

END, SCAN = b"\xff\xd9", 0xDA  # markers of a JPEG: its end, the start of its pixels


@functools.cache
def opencv() -> Any:
    """The module of OpenCV, without threads of its own, for the loader has some; UsageError where it is not there."""
    try:
        import cv2  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "decoder opencv needs OpenCV: pip install 'cssm[opencv]', or leave decoder at pillow"
        ) from error
    cv2.setNumThreads(1)
    return cv2


def installed() -> bool:
    """Whether `opencv` will find it."""
    return importlib.util.find_spec("cv2") is not None


def decode_opencv(data: bytes, where: str) -> np.ndarray:
    """uint8 (h, w, 3) in RGB, upright, of a PNG or JPEG. Raises DataError as `images.decode_image`."""
    with opened(data, where) as image:
        plain, turn = image.format == "JPEG" and image.mode in ("L", "RGB"), orientation(image)
    if not plain:
        return np.asarray(decode(data, where))
    cv2 = opencv()
    if data.find(END, _pixels_begin(data)) < 0:
        raise DataError(f"{where}: not a whole PNG or JPEG image (image file is truncated)")
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DataError(f"{where}: not a whole PNG or JPEG image ({error.err})") from error
    if found is None:
        raise DataError(f"{where}: not a whole PNG or JPEG image (OpenCV cannot decode it)")
    return _turned(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), turn)


def _pixels_begin(data: bytes) -> int:
    """Where the first scan of a JPEG begins: what comes before, such as a thumbnail, may hold an end of its own."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:  # no marker: padding
            at += 1
        elif data[at + 1] == SCAN:
            return at
        elif data[at + 1] in (0xFF, 0x01) or 0xD0 <= data[at + 1] <= 0xD8:  # fill, or a marker without a length
            at += 1 if data[at + 1] == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return len(data)


def _turned(image: np.ndarray, turn: int) -> np.ndarray:
    """The array turned by an EXIF orientation, 1..8."""
    if turn in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        image = image[::-1]
    if turn in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def resize_opencv(image: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """uint8 (h, w, 3) resized to (width, height): by averages over areas where it shrinks, else by `interpolation`."""
    cv2 = opencv()
    if size == image.shape[1::-1]:
        return image
    smaller = size[0] <= image.shape[1] and size[1] <= image.shape[0]
    larger: Any = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[interpolation]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else larger)


def centre_opencv(image: np.ndarray, size: int, short: int, interpolation: str) -> np.ndarray:
    """`images.centre` of an array: (size, size, 3)."""
    across, down = image.shape[1::-1]
    (width, height), (left, top) = centre_of((across, down), size, short)
    if width * height > SCALED:  # a thin image is cut before it is scaled, to the pixel
        box = (left * across // width, top * down // height, (left + size) * across, (top + size) * down)
        image = image[box[1] : max(box[1] + 1, -(-box[3] // height)), box[0] : max(box[0] + 1, -(-box[2] // width))]
        return resize_opencv(image, (size, size), interpolation)
    return resize_opencv(image, (width, height), interpolation)[top : top + size, left : left + size]
