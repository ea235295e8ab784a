"""A checksum manifest in a folder: which files it holds and the sha256 of each, so that damage is seen."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "MANIFEST.json"


def write_manifest(folder: Path) -> None:
    """Flush every file of `folder` to disk and write their checksums beside them."""
    entries = {}
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            entries[_key(path, folder)] = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(folder / NAME, {"sha256": entries})


def damage(folder: Path) -> str | None:
    """What is wrong with the folder, in words; None when every file is as it was written."""
    try:
        entries = json.loads((folder / NAME).read_bytes())["sha256"]
        found = {_key(path, folder): path for path in _files(folder)}
        if missing := sorted(set(entries) - set(found)):
            return f"{missing[0]} is missing"
        if extra := sorted(set(found) - set(entries)):
            return f"{extra[0]} is not in {NAME}"
        for name, path in found.items():
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entries[name]:
                    return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{NAME} cannot be used ({type(error).__name__})"
    return None


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader, or a crash, sees the old file or the new one."""
    with replacing(path) as new, new.open("w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of `path` when the block ends; nothing of it remains when it fails."""
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)


def _key(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
