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

    if not path.is_file():
        raise DataError(f"no clip {path}: give an .npz or .npy file with a video (T, H, W, 3)")
    try:
        _refuse_large(path)
        loaded = np.load(path, allow_pickle=False)
        video = loaded if isinstance(loaded, np.ndarray) else _only_array(path, loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise DataError(
            f"{path} is not a readable .npz or .npy clip ({error}); write one with `cssm data clip`"
        ) from None
    if video.ndim != 4 or video.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise DataError(f"{path} holds {video.dtype} of shape {video.shape}; expected uint8 or float (T, H, W, 3)")
    if 0 in video.shape:
        raise DataError(f"{path} has zero frames or pixels (shape {video.shape}): give at least one frame")
    if np.issubdtype(video.dtype, np.floating) and not np.isfinite(video).all():
        raise DataError(f"{path} contains NaN or infinity: clean the video, or pass uint8 frames")
    return video


def _only_array(path: Path, archive):
    names = list(archive.files)
    name = "video" if "video" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise DataError(f"{path} holds {', '.join(names) or 'no arrays'}: name the video's array 'video'")
    return archive[name]


def _refuse_large(path: Path) -> None:
    """ValueError before anything large is unpacked."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_CLIP_BYTES:
        raise ValueError(f"{size} bytes unpacked, more than {MAX_CLIP_BYTES}")
