"""Write a generated set, or the digits, to shards: whole shards only, resumable, with checksums.

`tfrecord` is the published form (raw float32, ImageNet-normalised, published keys and file names) plus a `markers`
feature: readers of the published files read it. `arrayrecord` holds uint8, compressed (a PathTracker video takes
2 kB instead of 393), for fast random access. Both are read back with `StoredFiles`.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cssm.core.errors import UsageError

from .digits import Digits
from .featuretracker import FeatureTracker
from .formats.example import encode_example
from .formats.stored import VIDEO_KEYS
from .pathfinder import Pathfinder
from .pathtracker import PathTracker
from .shards import Plan, Shard
from .source import IMAGENET_MEAN, IMAGENET_STD, Sample, Source, check_choice, check_range
from .tracks import Tracks

GENERATED = {PathTracker: "pathtracker", Pathfinder: "pathfinder", FeatureTracker: "featuretracker"}
WRITTEN = {**GENERATED, Digits: "digits"}  # what can be made
ENDLESS = (*GENERATED, Tracks)  # sets without an end
FORMATS = ("arrayrecord", "tfrecord")
SPLITS = ("train", "val", "test")
CHUNK = 64  # samples made at a time


def make(
    config: PathTracker | Pathfinder | FeatureTracker | Digits,
    *,
    out: Path,
    splits: dict[str, int],
    seed: int = 0,
    format: str = "arrayrecord",
    shard_size: int = 1000,
    progress: bool = False,
) -> Path:
    """Write `splits` ({"train": samples, ...}) of `config` to the folder `out`; returns the folder of metadata.json.

    A run that was killed goes on after its last whole shard when `make` is called again with the same arguments, see
    `shards`; the files are then the same as those of an undisturbed run.

    Args:
        config: what to generate; or the digits, of which there are 1,257 / 270 / 270 (arrayrecord only).
        out: the folder; Pathfinder in `tfrecord` form goes into out/difficulty_{d}, as published.
        splits: samples of each of train, val, test.
        seed: of the generator, or of the order of the digits.
        format: "arrayrecord" or "tfrecord".
        shard_size: samples of a shard.
        progress: show a progress bar.

    Raises UsageError for bad arguments or when `out` holds another set, DataError when a finished shard is damaged.

    >>> import tempfile
    >>> from cssm.data.formats.stored import StoredFiles
    >>> folder = make(PathTracker(frames=8), out=Path(tempfile.mkdtemp()), splits={"val": 10}, shard_size=5)
    >>> StoredFiles(root=folder).source("val")[9]["input"].shape
    (8, 32, 32, 3)
    """
    check_choice("format", format, FORMATS)
    check_range("shard_size", shard_size, 1, 10**7)
    for split, size in splits.items():
        check_choice("split", split, SPLITS)
        check_range(f"samples of {split}", size, 1, 10**9)
        config.source(split, size=size, seed=seed)  # refuses what there is not, before anything is written
    if type(config) not in GENERATED and format == "tfrecord":
        raise UsageError(f"{WRITTEN[type(config)]} has no published TFRecord layout: make it as arrayrecord")
    published = WRITTEN[type(config)] == "pathfinder" and format == "tfrecord"
    folder = Path(out) / f"difficulty_{config.difficulty}" if published else Path(out)  # type: ignore[attr-defined]
    options: dict[str, Any] = {"format": format, "shard_size": shard_size}
    plan = MadePlan(folder=folder, splits=dict(splits), config=config, seed=seed, **options)
    return plan.carry_out(progress=progress)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadePlan(Plan):
    """A generated set, or the digits."""

    config: Any
    seed: int

    @property
    def dataset(self) -> str:
        return WRITTEN[type(self.config)]

    def header(self) -> dict[str, Any]:
        options = dataclasses.asdict(self.config)
        return {
            "dataset": self.dataset, "options": options, "seed": self.seed, "format": self.format,
            "shard_size": self.shard_size, "samples": self.splits, "version": 1,
        }  # fmt: skip

    def name(self, split: str, number: int) -> str:
        digits = 4 if self.dataset != "pathfinder" and self.format == "tfrecord" else 5
        return f"{split}/shard_{number:0{digits}d}.{self.format}"

    def records(self, split: str, begin: int, end: int) -> Iterator[bytes]:
        source = self.config.source(split, size=self.splits[split], seed=self.seed)
        encode = raw_record if self.format == "arrayrecord" else published_record
        return (encode_example(encode(sample)) for sample in _samples(source, begin, end))

    def about(self, shards: dict[str, list[Shard]]) -> dict[str, Any]:
        """The published keys."""
        total, shape = sum(self.splits.values()), self.config.sample_spec["input"].shape
        published = {
            "difficulty": getattr(self.config, "difficulty", None),
            "image_size": shape[-2],
            **({"num_frames": shape[0]} if len(shape) == 4 else {}),
            "total_samples": total, "train_ratio": self.splits.get("train", 0) / max(total, 1),
            "val_ratio": self.splits.get("val", 0) / max(total, 1),
        }  # fmt: skip
        for split, of_split in shards.items():
            published |= {f"{split}_samples": self.splits[split], f"{split}_shards": len(of_split)}
        return published


def raw_record(sample: Sample) -> dict[str, Any]:
    """Features of an ArrayRecord: `input` raw uint8, its sizes, `label`, `markers`."""
    return {**_common(sample), "input": sample["input"].tobytes()}


def published_record(sample: Sample) -> dict[str, Any]:
    """Features of the published TFRecords: `video` or `image`, raw float32, ImageNet-normalised."""
    pixels = sample["input"].astype(np.float32) / 255
    pixels = (pixels - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return {**_common(sample), "video" if pixels.ndim == 4 else "image": pixels.astype("<f4").tobytes()}


def _common(sample: Sample) -> dict[str, Any]:
    sizes = dict(zip(VIDEO_KEYS[-sample["input"].ndim :], sample["input"].shape, strict=True))
    markers = {"markers": sample["markers"].reshape(-1).tolist()} if "markers" in sample else {}
    return {**sizes, "label": int(sample["label"]), **markers}


def _samples(source: Source, begin: int, end: int) -> Iterator[Sample]:
    for first in range(begin, end, CHUNK):
        batch = source.batch(np.arange(first, min(end, first + CHUNK)))
        for i in range(len(batch["label"])):
            yield {key: value[i] for key, value in batch.items()}
