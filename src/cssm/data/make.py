"""Write a generated set, or the digits, to shards: whole shards only, resumable, with checksums.

`tfrecord` is the published form (raw float32, ImageNet-normalised, published keys and file names) plus a `markers`
feature: readers of the published files read it. `arrayrecord` holds uint8, compressed (a PathTracker video takes
2 kB instead of 393), for fast random access. Both are read back with `StoredFiles`.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cssm.core.errors import DataError, UsageError
from cssm.core.files import read_small_text

from .digits import Digits
from .featuretracker import FeatureTracker
from .formats.arrayrecord import write_array_records
from .formats.example import encode_example
from .formats.records import inside
from .formats.stored import LARGEST, METADATA, VIDEO_KEYS, read_metadata, sha256
from .formats.tfrecord import write_records
from .pathfinder import Pathfinder
from .pathtracker import PathTracker
from .source import IMAGENET_MEAN, IMAGENET_STD, Sample, Source, check_choice, check_range
from .tracks import Tracks

GENERATED = {PathTracker: "pathtracker", Pathfinder: "pathfinder", FeatureTracker: "featuretracker"}
WRITTEN = {**GENERATED, Digits: "digits"}  # what can be made
ENDLESS = (*GENERATED, Tracks)  # sets without an end
FORMATS = ("arrayrecord", "tfrecord")
SPLITS = ("train", "val", "test")
JOURNAL = "metadata.partial.jsonl"
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

    A shard is written under another name and renamed when it is whole. Finished shards are kept in a journal, so a
    run that was killed goes on after its last shard when `make` is called again with the same arguments; the files
    are then the same as those of an undisturbed run. metadata.json is written last.

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
    plan = Plan(config, Path(out), dict(splits), seed, format, shard_size)
    plan.folder.mkdir(parents=True, exist_ok=True)
    done = plan.finished()
    with _bars(plan.splits, progress) as advance:
        for split, number in plan.shards():
            name = plan.name(split, number)
            if name not in done:
                done[name] = plan.write(split, number)
            advance(split, done[name]["samples"])
    plan.finish(done)
    return plan.folder


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be written where."""

    config: Any
    out: Path
    splits: dict[str, int]
    seed: int
    format: str
    shard_size: int

    @property
    def dataset(self) -> str:
        return WRITTEN[type(self.config)]

    @property
    def folder(self) -> Path:
        published = self.dataset == "pathfinder" and self.format == "tfrecord"
        return self.out / f"difficulty_{self.config.difficulty}" if published else self.out

    def header(self) -> dict[str, Any]:
        """What defines the set: two runs with one header write the same files."""
        options = dataclasses.asdict(self.config)
        return {
            "dataset": self.dataset, "options": options, "seed": self.seed, "format": self.format,
            "shard_size": self.shard_size, "samples": self.splits, "version": 1,
        }  # fmt: skip

    def shards(self) -> Iterator[tuple[str, int]]:
        for split, size in self.splits.items():
            for number in range(-(-size // self.shard_size)):
                yield split, number

    def name(self, split: str, number: int) -> str:
        digits = 4 if self.dataset != "pathfinder" and self.format == "tfrecord" else 5
        return f"{split}/shard_{number:0{digits}d}.{self.format}"

    def finished(self) -> dict[str, dict[str, Any]]:
        """Shards of an earlier run of the same plan, from the journal or from metadata.json."""
        header, path = self.header(), self.folder / METADATA
        if path.exists():
            metadata = read_metadata(self.folder)
            self._same(header, {key: metadata.get(key) for key in header}, path)
            return {shard["name"]: shard for shards in metadata["splits"].values() for shard in shards}
        journal = self.folder / JOURNAL
        if not journal.exists():
            if any(self.folder.iterdir()):
                raise UsageError(f"{self.folder} is not empty and holds no set: choose an empty or new folder")
            _write(journal, json.dumps(header) + "\n")
        return self._replay(header, journal)

    def _replay(self, header: dict[str, Any], journal: Path) -> dict[str, dict[str, Any]]:
        lines = read_small_text(journal, LARGEST).splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # the last may have been cut off
        try:
            self._same(header, json.loads(whole[0]) if whole else None, journal)
            shards = [json.loads(line) for line in whole[1:]]
            named = [(inside(self.folder, shard["name"], str(journal)), shard["sha256"]) for shard in shards]
        except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            again = f"delete {self.folder} and start again"
            raise DataError(f"{journal}: not the journal of a set that is being made ({error!r}): {again}") from None
        for path, checksum in named:
            if not path.is_file() or sha256(path) != checksum:
                raise DataError(
                    f"{path}: missing or damaged since it was written: delete {self.folder} and start again"
                )
        _write(journal, "".join(whole))
        return {shard["name"]: shard for shard in shards}

    def _same(self, ours: dict[str, Any], theirs: dict[str, Any] | None, path: Path) -> None:
        for key, value in ours.items():
            found = (theirs or {}).get(key)
            if json.loads(json.dumps(value)) != found:
                raise UsageError(f"{path} is of a set with {key} {found}, not {value}: choose another folder")

    def write(self, split: str, number: int) -> dict[str, Any]:
        """Make one shard, put it in place, and enter it in the journal."""
        size = self.splits[split]
        source = self.config.source(split, size=size, seed=self.seed)
        begin, end = number * self.shard_size, min(size, (number + 1) * self.shard_size)
        path = self.folder / self.name(split, number)
        part = path.with_name(f"{path.name}.part")
        path.parent.mkdir(exist_ok=True)
        writer = write_array_records if self.format == "arrayrecord" else write_records
        encode = raw_record if self.format == "arrayrecord" else published_record
        samples = writer(part, (encode_example(encode(s)) for s in _samples(source, begin, end)))
        shard = {"name": self.name(split, number), "samples": samples, "sha256": sha256(part)}
        _sync(part)
        os.replace(part, path)
        with open(self.folder / JOURNAL, "a") as file:
            file.write(json.dumps(shard) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return shard

    def finish(self, done: dict[str, dict[str, Any]]) -> None:
        """Write metadata.json, with the published keys too, and drop the journal."""
        lists: dict[str, list[Any]] = {split: [] for split in self.splits}
        for split, number in self.shards():
            lists[split].append(done[self.name(split, number)])
        total, shape = sum(self.splits.values()), self.config.sample_spec["input"].shape
        published = {
            "difficulty": getattr(self.config, "difficulty", None),
            "image_size": shape[-2],
            **({"num_frames": shape[0]} if len(shape) == 4 else {}),
            "total_samples": total, "train_ratio": self.splits.get("train", 0) / max(total, 1),
            "val_ratio": self.splits.get("val", 0) / max(total, 1),
        }  # fmt: skip
        for split, shards in lists.items():
            published |= {f"{split}_samples": self.splits[split], f"{split}_shards": len(shards)}
        metadata = {**self.header(), **published, "splits": lists}
        _write(self.folder / METADATA, json.dumps(metadata, indent=1) + "\n")
        (self.folder / JOURNAL).unlink(missing_ok=True)


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


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    _sync(part)
    os.replace(part, path)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class _bars:
    """A progress bar per split; as a context gives `advance(split, samples)`."""

    def __init__(self, splits: dict[str, int], shown: bool):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:>5}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, disable=not shown)
        self._tasks = {split: self._progress.add_task(split, total=size) for split, size in splits.items()}

    def __enter__(self) -> Callable[[str, int], None]:
        self._progress.start()
        return lambda split, samples: self._progress.advance(self._tasks[split], samples)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
