"""Shared by the commands: the compilation cache, parsing, reading clips."""

import contextlib
import dataclasses
import inspect
import io
import os
import sys
import zipfile
import zlib
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import tyro

from cssm.core.errors import DataError, UsageError

T = TypeVar("T")
MAX_CLIP_BYTES = 2**31
UNREADABLE = (
    DataError, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError,
)  # fmt: skip
MAX_PIXEL = 1e6  # of float frames: far beyond any normalisation


def parse(kind: type[T] | Any, argv: list[str], command: str, description: str) -> T:
    """Parse flags into a frozen dataclass with tyro. UsageError, in one line, for a mistake in them."""
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            return tyro.cli(kind, args=argv, prog=f"cssm {command}", description=inspect.cleandoc(description))
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UsageError(f"{_sentence(heard.getvalue())}; cssm {command} --help lists the options") from None


def _sentence(box: str) -> str:
    """What the framed text of tyro says, without its frame and its help.

    >>> _sentence("+- Oh --+\\n| Missing: |\\n|   --out  |\\n| ------ |\\n| For full helptext, run |\\n+-------+")
    'Missing: --out'
    """
    lines = [line.strip("|│ ") for line in box.splitlines()[1:-1]]
    said = takewhile(lambda line: not line.startswith(("For full helptext", "Argument helptext")), lines)
    return " ".join(line for line in said if line.strip("-─"))


def enable_compilation_cache() -> None:
    """Keep compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or ~/.cache/cssm/jax, or say why not."""
    import jax

    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    try:
        folder = Path(given) if given else Path.home() / ".cache" / "cssm" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        print(
            f"cssm: compiled programs are not kept ({error}), so that each start takes longer: set "
            "JAX_COMPILATION_CACHE_DIR to a folder that can be written",
            file=sys.stderr,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedRun:
    """The flags of a command that reads a run."""

    run: tyro.conf.Positional[Path]
    """Folder that `cssm train` wrote."""
    checkpoint: str = "best"
    """Which parameters: best, last, or the number of a step."""


def read_clip(path: Path):
    """A uint8 or float video (T, H, W, C) from .npz (key "video", or the only array) or .npy; nothing is unpickled.

    Raises:
      DataError: missing, damaged, too large, ambiguous, or not a video.
    """
    import numpy as np

    from cssm.data.formats.npy import read_npy

    if not path.is_file():
        raise DataError(f"no clip {path}: give an .npz or .npy file with a video (T, H, W, 3)")
    try:
        _refuse_large(path)
        video = _only_array(path) if zipfile.is_zipfile(path) else read_npy(path)
    except (
        DataError,
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        NotImplementedError,
    ) as error:
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
        _check_normalised(path, float(np.abs(video).max()))
    return video


def _only_array(path: Path):
    from cssm.data.formats.npy import parse_npy

    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        name = "video" if "video" in sizes else next(iter(sizes)) if len(sizes) == 1 else None
        if name is None:
            raise ValueError(f"it holds {', '.join(sizes) or 'no arrays'}: name the video's array 'video'")
        with archive.open(sizes[name]) as file:
            return parse_npy(file, sizes[name].file_size, f"{path}, {name}")


def _check_normalised(path: Path, largest: float) -> None:
    """DataError for floats that no normalisation gives; a line where they look like bytes."""
    if largest > MAX_PIXEL:
        raise DataError(f"{path} holds values up to {largest:.3g}: expected normalised floats, or uint8 frames 0..255")
    if largest > 16:
        print(
            f"cssm: {path} holds floats up to {largest:.3g}, which are taken as normalised already; if they are pixels "
            "0..255, save them as uint8",
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
