"""Files that may be hostile read with a bound, and files written whole or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DataError, UsageError


def read_small(path: Path, limit: int = 2**20) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    A pipe or a device, which would block or never end, is refused without being waited for. Raises DataError for one,
    and for a larger file; OSError when it cannot be opened.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a"
    >>> path.write_bytes(b"abc"), read_small(path)
    (3, b'abc')
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{path} is no regular file: give one that is")
        if about.st_size > limit:
            raise DataError(f"{path} has {about.st_size} bytes, more than {limit}: it is not what is read here")
        return file.read(limit)


def read_small_text(path: Path, limit: int = 2**20) -> str:
    """`read_small` of a text in UTF-8; DataError also when it is none."""
    try:
        return read_small(path, limit).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start})") from None


def check_output(path: Path, suffix: str, flag: str) -> Path:
    """`path`; UsageError unless a file of that suffix can be written there.

    >>> check_output(Path("a.png"), ".png", "--output").name
    'a.png'
    """
    if path.name in ("", "..") or path.suffix.lower() != suffix:
        raise UsageError(f"{flag} {path}: what is written is a {suffix[1:].upper()}, give a name that ends in {suffix}")
    if path.is_dir():
        raise UsageError(f"{flag} {path}: that is a folder, give the name of a file")
    above = next((folder for folder in path.parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise UsageError(f"{flag} {path}: {above} is a file, not a folder")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of `path` when the block ends; nothing of it remains when it fails."""
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
