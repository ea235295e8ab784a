"""A video of one's own, from .npz or .npy: hostile sizes are refused before anything is unpacked."""

import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np

from cssm.core.errors import DataError

from .npy import parse_npy, read_npy

MAX_CLIP_BYTES = 2**31
UNREADABLE = (
    DataError, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError,
)  # fmt: skip
MAX_PIXEL = 1e6  # of float frames: far beyond any normalisation


def read_clip(path: Path) -> np.ndarray:
    """A uint8 or float video (T, H, W, C) from .npz (key "video", or the only array) or .npy; nothing is unpickled.

    Raises:
      DataError: missing, damaged, too large, ambiguous, or not a video.
    """
    if not path.is_file():
        raise DataError(f"no clip {path}: give an .npz or .npy file with a video (T, H, W, 3)")
    try:
        _refuse_large(path)
        video = _only_array(path) if zipfile.is_zipfile(path) else read_npy(path)
    except UNREADABLE as error:
        raise DataError(
            f"{path} is not a readable .npz or .npy clip ({error}); write one with `cssm data clip`"
        ) from None
    if video.ndim != 4 or video.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise DataError(f"{path} holds {video.dtype} of shape {video.shape}; expected uint8 or float (T, H, W, 3)")
    if 0 in video.shape:
        raise DataError(f"{path} has zero frames or pixels (shape {video.shape}): give at least one frame")
    if np.issubdtype(video.dtype, np.floating) and not np.isfinite(video).all():
        raise DataError(f"{path} contains NaN or infinity: clean the video, or pass uint8 frames")
    if video.dtype != np.uint8:
        check_normalised(str(path), float(np.abs(video).max()))
    return video


def _only_array(path: Path):
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        name = "video" if "video" in sizes else next(iter(sizes)) if len(sizes) == 1 else None
        if name is None:
            raise ValueError(f"it holds {', '.join(sizes) or 'no arrays'}: name the video's array 'video'")
        with archive.open(sizes[name]) as file:
            return parse_npy(file, sizes[name].file_size, f"{path}, {name}")


def check_normalised(where: str, largest: float) -> None:
    """DataError for floats that no normalisation gives; a line where they look like bytes."""
    if largest > MAX_PIXEL:
        raise DataError(f"{where} holds values up to {largest:.3g}: expected normalised floats, or uint8 frames 0..255")
    if largest > 16:
        print(
            f"cssm: {where} holds floats up to {largest:.3g}, which are taken as normalised already; if they are "
            "pixels 0..255, save them as uint8",
            file=sys.stderr,
        )


def _refuse_large(path: Path) -> None:
    """ValueError before anything large is unpacked."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_CLIP_BYTES:
        raise ValueError(f"{size} bytes unpacked, more than {MAX_CLIP_BYTES}")
