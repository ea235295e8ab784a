"""Sets that `cssm.data.make` wrote: a folder with metadata.json, which lists every shard with its checksum."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from cssm.core.errors import DataError

from ..source import Sample, Source, check_choice
from .arrayrecord import ArrayRecordFiles
from .example import Example
from .pathfinder import binary_label, checked_shape, image_sample, with_markers
from .pathtracker import video_sample
from .records import FileSource, inside, take
from .tfrecord import TFRecordFiles

METADATA = "metadata.json"
VIDEO_KEYS = ("num_frames", "height", "width", "channels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredFiles:
    """A set that `cssm.data.make` wrote, read back; samples equal those of the generator.

    Args:
        root: the folder with metadata.json.
        skip_corrupt: leave unreadable records out, counted and logged, instead of raising.

    Raises DataError for a folder without or with foreign metadata, and for missing, truncated or damaged shards.
    """

    root: Path
    skip_corrupt: bool = False

    @property
    def num_classes(self) -> int:
        return 2

    def source(self, split: str = "train", *, size: int | None = None, seed: int | None = None) -> Source:
        """A split, or its first `size` samples; `seed`, when given, must be the one the set was made with."""
        metadata = read_metadata(Path(self.root))
        if seed is not None:
            check_choice(f"seed of {self.root}", seed, (metadata["seed"],))
        check_choice(f"split of {self.root}", split, tuple(metadata["splits"]))
        where = Path(self.root) / METADATA
        paths = [inside(Path(self.root), shard["name"], str(where)) for shard in metadata["splits"][split]]
        for path in paths:
            if not path.is_file():
                raise DataError(f"{path}: missing, {where} lists it")
        if metadata["format"] == "arrayrecord":
            files, sample = ArrayRecordFiles(paths, skip_corrupt=self.skip_corrupt), raw_sample
        else:
            files = TFRecordFiles(paths, skip_corrupt=self.skip_corrupt)
            sample = image_sample if metadata["dataset"] == "pathfinder" else video_sample

        def read(i: int) -> Sample:
            return sample(Example(files.read(i), files.where(i)))

        source = FileSource(
            len(files), read, files.where, skip_corrupt=self.skip_corrupt, already_left_out=files.left_out
        )
        return take(source, size)


def raw_sample(example: Example) -> Sample:
    """The sample of an ArrayRecord: `input` raw uint8, (t,) h, w, c in int64 features, `label`, `markers`."""
    shape = checked_shape(example, VIDEO_KEYS if "num_frames" in example else VIDEO_KEYS[1:])
    return with_markers({"input": example.array("input", "uint8", shape), "label": binary_label(example)}, example)


def read_metadata(root: Path) -> dict[str, Any]:
    """metadata.json of a set, with the parts that this reader needs checked. Raises DataError."""
    path = root / METADATA
    try:
        metadata = json.loads(path.read_text("utf-8"))
        ok = metadata["format"] in ("arrayrecord", "tfrecord") and isinstance(metadata["seed"], int)
        for shards in metadata["splits"].values():
            ok &= all(isinstance(s["name"], str) and isinstance(s["sha256"], str) for s in shards)
            ok &= all(isinstance(s["samples"], int) for s in shards)
        ok &= isinstance(metadata["dataset"], str)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; a set that is being made has none yet") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not the metadata of a made set ({error!r})") from error
    if not ok:
        raise DataError(f"{path}: not the metadata of a made set")
    return metadata


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(root: Path) -> int:
    """Check every shard of a made set against its checksum; returns the number of samples.

    Raises DataError naming the first shard that is missing or differs.
    """
    metadata, samples = read_metadata(Path(root)), 0
    for shards in metadata["splits"].values():
        for shard in shards:
            path = inside(Path(root), shard["name"], str(Path(root) / METADATA))
            if not path.is_file():
                raise DataError(f"{path}: missing, {METADATA} lists it")
            if sha256(path) != shard["sha256"]:
                raise DataError(f"{path}: its checksum differs from {METADATA}: damaged; delete it and make it again")
            samples += shard["samples"]
    return samples
