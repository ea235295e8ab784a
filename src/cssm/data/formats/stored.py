"""Sets that `cssm.data.make` wrote: a folder with metadata.json, which lists every shard with its checksum."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from cssm.core.errors import DataError, UnknownNameError, UsageError

from ..dataset import DATASETS, DataSet, Spec, check_split, root_of, spec_of, with_options
from ..source import Sample, Source, take
from .arrayrecord import ArrayRecordFiles
from .example import Example
from .manifest import Shards, check_counts, made_folder, read_metadata, shard_paths
from .pathfinder import checked_shape, image_sample, label_below, with_markers
from .pathtracker import video_sample
from .records import record_source
from .tfrecord import TFRecordFiles

VIDEO_KEYS = ("num_frames", "height", "width", "channels")


@DATASETS.register("stored")
@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredFiles(DataSet):
    """A set that `cssm data make` wrote, read back; samples equal those of the generator, in its order.

    Raises DataError for a folder without or with foreign metadata, and for missing, truncated or damaged shards.
    """

    root: Path | None = None
    """The folder with metadata.json, or the one above it where that is its only difficulty_{d}."""
    skip_corrupt: bool = False
    """Leave unreadable records out, counted and logged, instead of raising."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in ("train", "val", "test") if split in self._metadata()["splits"])

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.generator.class_names

    @property
    def baseline(self) -> str:
        return self.generator.baseline

    @property
    def sample_spec(self) -> dict[str, Spec]:
        shards = self._metadata()["splits"][self.splits[0]][:1]
        return spec_of(self._records(shards)[0])

    @property
    def generator(self) -> Any:
        """The data set that made it, with its options. Raises DataError when this version does not know them."""
        metadata = self._metadata()
        try:
            return with_options(DATASETS[metadata["dataset"]], metadata["dataset"], metadata["options"])
        except (UsageError, TypeError) as error:
            raise DataError(f"{self.root}: made with options this version of cssm does not know ({error})") from error

    def source(self, split: str = "train", *, size: int | None = None, seed: int | None = None) -> Source:
        """A split, or its first `size` samples; a seed puts them in another order."""
        check_split(self, "the made set", split)
        return take(self._records(self._metadata()["splits"][split]), size, seed)

    def _metadata(self) -> dict[str, Any]:
        return read_metadata(self._folder())

    def _folder(self) -> Path:
        root = root_of(self.root, "a made set")
        return made_folder(root) or root

    def _records(self, shards: Shards) -> Source:
        metadata, root = self._metadata(), self._folder()
        paths = shard_paths(root, shards, sizes=not self.skip_corrupt)
        if metadata["format"] == "arrayrecord":
            files = ArrayRecordFiles(paths, skip_corrupt=self.skip_corrupt)
            sample = partial(raw_sample, classes=self.num_classes)
        else:
            files = TFRecordFiles(paths, skip_corrupt=self.skip_corrupt)
            sample = image_sample if metadata["dataset"] == "pathfinder" else video_sample
        check_counts(paths, shards, files.counts, files.left_out, skip=self.skip_corrupt)
        return record_source(files, sample, skip_corrupt=self.skip_corrupt)


def open_made(root: Path, name: str, options: dict[str, Any]) -> StoredFiles:
    """The made set in `root`; `options` of the generator `name` are compared with those it was made with.

    Raises UsageError when another set or other options were asked for, UnknownNameError for an unknown option.
    """
    folder = made_folder(root, options.get("difficulty")) or root
    data = StoredFiles(root=folder, skip_corrupt=options.get("skip_corrupt", False))
    generator, stored = data.generator, read_metadata(folder)["dataset"]
    if name not in ("stored", stored):
        raise UsageError(f"{folder} holds {stored}, not {name}: give --dataset {stored}, or name it")
    made = dataclasses.asdict(generator)
    if "size" in made:
        made["size"] = generator.sample_spec["input"].shape[-2]
    for option, value in options.items():
        if option != "skip_corrupt" and option not in made:
            raise UnknownNameError(f"option of {stored}", option, [*made, "skip_corrupt"])
        if option != "skip_corrupt" and value is not None and value != made[option]:
            what = f"{folder} was made with {option} {made[option]}, not {value}"
            raise UsageError(f"{what}: leave {option} out, or make another set")
    return data


def raw_sample(example: Example, classes: int) -> Sample:
    """The sample of an ArrayRecord: `input` raw uint8, (t,) h, w, c in int64 features, `label`, `markers`."""
    shape = checked_shape(example, VIDEO_KEYS if "num_frames" in example else VIDEO_KEYS[1:])
    return with_markers(
        {"input": example.array("input", "uint8", shape), "label": label_below(example, classes)}, example
    )
