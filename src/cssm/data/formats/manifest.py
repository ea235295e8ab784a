"""metadata.json of sets that were written to shards: which there are, of what, with checksums."""

import hashlib
import json
from pathlib import Path
from typing import Any

from cssm.core.errors import DataError
from cssm.core.files import read_small_text

from .records import inside

METADATA = "metadata.json"
LARGEST = 2**28  # bytes of it: a million shards
MADE = ("pathtracker", "pathfinder", "featuretracker", "digits")
Shards = list[dict[str, Any]]


def made_folder(root: Path, difficulty: int | None = None) -> Path | None:
    """The folder of the made set in `root`: itself, or its difficulty_{d} (the only one, where none is asked for)."""
    if _lists_shards(root, packed=False):
        return root
    below = [root / f"difficulty_{difficulty}"] if difficulty is not None else root.glob("difficulty_*")
    made = [folder for folder in below if _lists_shards(folder, packed=False)]
    return made[0] if len(made) == 1 else None


def is_packed(root: Path) -> bool:
    """Whether `cssm data pack` wrote the set in a folder."""
    return _lists_shards(root, packed=True)


def _lists_shards(folder: Path, *, packed: bool) -> bool:
    """Published sets may have a metadata.json of their own, without a list of shards."""
    try:
        metadata = json.loads(read_small_text(folder / METADATA, LARGEST))
        return "splits" in metadata and ("short_side" in metadata) == packed
    except (DataError, OSError, ValueError, TypeError, RecursionError):
        return False


def read_metadata(root: Path) -> dict[str, Any]:
    """metadata.json of a made or packed set, with the parts that its readers need checked. Raises DataError."""
    path = root / METADATA
    try:
        metadata = json.loads(read_small_text(path, LARGEST))
        ok = metadata["format"] in ("arrayrecord", "tfrecord")
        for shards in metadata["splits"].values():
            ok &= all(isinstance(s["name"], str) and isinstance(s["sha256"], str) for s in shards)
            ok &= bool(shards) and all(type(s["samples"]) is int and s["samples"] > 0 for s in shards)
            ok &= all(type(s.get("bytes", 0)) is int for s in shards)
        ok &= bool(metadata["splits"]) and all(split in ("train", "val", "test") for split in metadata["splits"])
        ok &= isinstance(metadata["options"], dict)
        ok &= _packed_ok(metadata) if "short_side" in metadata else _made_ok(metadata)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; a set that is being made has none yet") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: not the metadata of a made set ({error!r})") from error
    if not ok:
        raise DataError(f"{path}: not the metadata of a made set")
    return metadata


def _made_ok(metadata: dict[str, Any]) -> bool:
    return isinstance(metadata["seed"], int) and metadata["dataset"] in MADE


def _packed_ok(metadata: dict[str, Any]) -> bool:
    names = metadata["class_names"]
    named = isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)
    return named and isinstance(metadata["dataset"], str) and metadata["format"] == "arrayrecord"


def shard_paths(root: Path, shards: Shards, *, sizes: bool = True) -> list[Path]:
    """The files of `shards`; DataError naming the first that is missing or, where `sizes` count, cut off."""
    paths = []
    for shard in shards:
        path = inside(root, shard["name"], str(root / METADATA))
        if not path.is_file():
            raise DataError(f"{path}: missing, {root / METADATA} lists it: copy it again, or write the set anew")
        found = path.stat().st_size
        if sizes and found != shard.get("bytes", found):
            listed = f"{found} bytes, {METADATA} lists {shard['bytes']}"
            raise DataError(f"{path}: not a whole shard, {listed}: copy it again, or write the set anew")
        paths.append(path)
    return paths


def check_counts(paths: list[Path], shards: Shards, counts: list[int], left_out: list[str], *, skip: bool) -> None:
    """DataError for a shard with other than the listed number of records; with `skip` a message in `left_out`."""
    for path, shard, count in zip(paths, shards, counts, strict=True):
        if count != shard["samples"] and not any(message.startswith(str(path)) for message in left_out):
            wrong = f"{path}: holds {count} records, {METADATA} lists {shard['samples']}: copy it again"
            if not skip:
                raise DataError(wrong)
            left_out.append(wrong)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(root: Path) -> int:
    """Check every shard of a made or packed set against its checksum; returns the number of samples.

    Raises DataError naming the first shard that is missing or differs.
    """
    root = made_folder(Path(root)) or Path(root)
    metadata, samples = read_metadata(root), 0
    for shards in metadata["splits"].values():
        for shard, path in zip(shards, shard_paths(root, shards, sizes=False), strict=True):
            if sha256(path) != shard["sha256"]:
                raise DataError(f"{path}: its checksum differs from {METADATA}: damaged; delete it and make it again")
            samples += shard["samples"]
    return samples
