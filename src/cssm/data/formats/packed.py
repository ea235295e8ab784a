"""Photographs that `cssm data pack` wrote: ArrayRecord shards of JPEGs whose short side fits training, and labels."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from cssm.core.errors import UsageError

from ..dataset import DATASETS, root_of
from .arrayrecord import ArrayRecordFiles
from .imagenet import encoded_records
from .manifest import METADATA, check_counts, read_metadata, shard_paths
from .photographs import EncodedImages, Photographs


@DATASETS.register("packed")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedImages(Photographs):
    """Photographs that `cssm data pack` wrote, in the order they were packed in; labels and classes as they were.

    Opened by the name of the packed set too: --dataset imagenet --data-dir SHARDS. `source` and reading raise DataError
    for a folder without or with foreign metadata, and for missing, truncated or damaged shards.
    """

    root: Path | None = None
    """The folder with metadata.json."""

    title: ClassVar[str] = "a packed set"

    @property
    def published(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "val", "test") if split in self.metadata()["splits"])

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.metadata()["class_names"])

    def metadata(self) -> dict[str, Any]:
        """What metadata.json says: the data set and its options, what was left out, the shards. Raises DataError."""
        return read_metadata(root_of(self.root, self.title))

    def encoded(self, split: str) -> EncodedImages:
        root, metadata = root_of(self.root, self.title), self.metadata()
        shards = metadata["splits"][split]
        paths = shard_paths(root, shards, sizes=not self.skip_corrupt)
        files = ArrayRecordFiles(paths, skip_corrupt=self.skip_corrupt)
        check_counts(paths, shards, files.counts, files.left_out, skip=self.skip_corrupt)
        return encoded_records(files, len(metadata["class_names"]))


def check_packed(root: Path, name: str) -> None:
    """UsageError unless the packed set in `root` is of data set `name`; as images, or packed, any is opened."""
    packed = read_metadata(root)["dataset"]
    if name not in ("packed", "images", packed):
        raise UsageError(f"{root / METADATA} is of {packed}, not {name}: give --dataset {packed}, or images")
