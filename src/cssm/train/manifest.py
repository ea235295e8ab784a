"""A checksum manifest in a folder: which files it holds and the sha256 of each, so that damage is seen."""

import hashlib
import json
import os
from pathlib import Path

from cssm.core.errors import DataError
from cssm.core.files import read_small, replacing

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
        entries = json.loads(read_small(folder / NAME))["sha256"]
        found = {_key(path, folder): path for path in _files(folder)}
        if missing := sorted(set(entries) - set(found)):
            return f"{missing[0]} is missing"
        if extra := sorted(set(found) - set(entries)):
            return f"{extra[0]} is not in {NAME}"
        for name, path in found.items():
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entries[name]:
                    return f"{name} does not match its checksum"
    except (DataError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{NAME} cannot be used ({type(error).__name__})"
    return None


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader, or a crash, sees the old file or the new one."""
    with replacing(path) as new, new.open("w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)


def _key(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
