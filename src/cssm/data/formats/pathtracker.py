"""Published PathTracker files: two TFRecord forms and one of array files."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cssm.core.errors import DataError

from ..dataset import DATASETS, DataSet, Spec, check_split, root_of, spec_of
from ..pathtracker import PathTracker
from ..source import IMAGENET_MEAN, IMAGENET_STD, Sample, Source, check_choice, check_range, take
from .example import Example
from .folders import listing, record_listing
from .images import denormalise
from .npy import read_npy
from .pathfinder import checked_shape, label_below, with_markers
from .records import FileSource, find_layout, first_sample, record_source, spread_frames
from .tfrecord import TFRecordFiles

LAYOUTS = ("auto", "tfrecord", "flat", "npy")
PATTERNS = {
    "tfrecord": ("train/*.tfrecord", "val/*.tfrecord", "test/*.tfrecord"),
    "flat": ("train-*", "test-*"),
    "npy": ("[01]/[01]_sample_*.npy",),
}
LARGEST = 1 << 14  # px of a side, frames
SAMPLE = re.compile(r"([01])_sample_([0-9]{1,12})\.npy")


@DATASETS.register("pathtracker_files")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PathTrackerFiles(DataSet):
    """PathTracker from published files, in the order of the shards or, for array files, of their numbers.

    The array files are published without a split. Their numbers order them: sample n of label 0, sample n of label 1,
    sample n+1 of label 0 and so on, so that every part has both classes. The last tenth is test, what comes before is
    train, and the last tenth of that is val, as the protocol holds out a tenth of train for the other two layouts.
    Samples were drawn independently, so that one cut is as good as another, and this one needs no random numbers.

    Raises UsageError for a bad option; `source` and reading raise DataError for missing, truncated or foreign files.
    """

    root: Path | None = None
    """The data folder."""
    layout: Literal["auto", "tfrecord", "flat", "npy"] = "auto"
    """tfrecord: ROOT/{train,val,test}/shard_%04d.tfrecord with normalised float32 `video`. flat: one folder of GZIP
    TFRecords train-* and test-* with raw uint8 `image` and a one-byte `label`; val is the last tenth of the train
    files. npy: ROOT/{0,1}/{label}_sample_{n}.npy, uint8 (t, h, w, 3). auto looks."""
    frames: int | None = None
    """Frames of a sample, spread evenly over the stored ones (rounded linspace); None takes all."""
    skip_corrupt: bool = False
    """Leave unreadable videos out, counted and logged, instead of raising."""
    cache: Path | None = None
    """Where flat keeps its unpacked files from one run to the next; None unpacks into a temporary folder."""

    class_names: ClassVar[tuple[str, ...]] = PathTracker.class_names
    baseline: ClassVar[str] = "markers"

    def __post_init__(self):
        check_choice("layout", self.layout, LAYOUTS)
        check_range("frames", 1 if self.frames is None else self.frames, 1, LARGEST)

    @property
    def splits(self) -> tuple[str, ...]:
        layout = "npy" if self.root is None else self._layout()
        if layout == "npy":
            return PathTracker.splits
        root = root_of(self.root, "pathtracker")
        if layout == "flat":
            return PathTracker.splits if next(root.glob("test-*"), None) else ("train", "val")
        return tuple(split for split in PathTracker.splits if (root / split).is_dir())

    @property
    def sample_spec(self) -> dict[str, Spec]:
        root_of(self.root, "pathtracker")
        if self._layout() == "npy":
            return spec_of(self.source("train", size=1)[0])
        path, compression = self._paths(self.splits[0])[0], self._compression()
        sample = first_sample(path, self._sample(), compression=compression, skip_corrupt=self.skip_corrupt)
        return spec_of(sample)

    def source(self, split: str = "train", *, size: int | None = None, seed: int | None = None) -> Source:
        """A split, or its first `size` samples; a seed puts them in another order."""
        root_of(self.root, "pathtracker")
        check_split(self, "pathtracker", split)
        if self._layout() == "npy":
            return take(self._arrays(split), size, seed)
        files = TFRecordFiles(
            self._paths(split), compression=self._compression(), cache=self.cache, skip_corrupt=self.skip_corrupt
        )
        return take(record_source(files, self._sample(), skip_corrupt=self.skip_corrupt), size, seed)

    def _layout(self) -> str:
        """The layout, found by looking when it is auto."""
        if self.layout != "auto":
            return self.layout
        return find_layout(root_of(self.root, "pathtracker"), "pathtracker", PATTERNS)

    def _compression(self) -> str | None:
        return "gzip" if self._layout() == "flat" else None

    def _sample(self) -> Callable[[Example], Sample]:
        decode = flat_sample if self._layout() == "flat" else video_sample
        return lambda example: self._thin(decode(example), example.where)

    def _thin(self, sample: Sample, where: str) -> Sample:
        return {**sample, "input": sample["input"][spread_frames(len(sample["input"]), self.frames, where)]}

    def _paths(self, split: str) -> list[Path]:
        root = root_of(self.root, "pathtracker")
        if self._layout() == "tfrecord":
            return listing(root / split, (".tfrecord",), "PathTracker shards")
        kind = "test" if split == "test" else "train"
        paths = [p for p in record_listing(root, "PathTracker files") if p.name.startswith(f"{kind}-")]
        held = max(1, len(paths) // 10)
        if len(paths) < (1 if kind == "test" else 2):
            raise DataError(f"{root}: {len(paths)} files {kind}-*, too few for a {split} split")
        return {"train": paths[:-held], "val": paths[-held:], "test": paths}[split]

    def _arrays(self, split: str) -> Source:
        files = numbered_arrays(root_of(self.root, "pathtracker"))
        test = len(files) - len(files) // 10
        val = test - test // 10
        files = {"train": files[:val], "val": files[val:test], "test": files[test:]}[split]
        if not files:
            raise DataError(f"{self.root}: too few arrays for a {split} split, 11 are the fewest")

        def read(i: int) -> Sample:
            path, label = files[i]
            video = read_npy(path, "uint8", 4)
            if video.shape[-1] != 3 or not video.size:
                raise DataError(f"{path}: a video of shape {video.shape}, expected (t, h, w, 3)")
            return self._thin({"input": video, "label": np.int32(label)}, str(path))

        labels = np.array([label for _, label in files], np.int32)
        return FileSource(len(files), read, lambda i: str(files[i][0]), skip_corrupt=self.skip_corrupt, labels=labels)


def numbered_arrays(root: Path) -> list[tuple[Path, int]]:
    """(array file, label) of both classes, by number, label 0 before label 1. Raises DataError for a missing class."""
    found = []
    for label in (0, 1):
        for path in listing(root / str(label), (".npy",), "PathTracker arrays"):
            match = SAMPLE.fullmatch(path.name)
            if match and int(match[1]) == label:
                found.append((int(match[2]), label, path))
    if not found:
        raise DataError(f"{root}: no file is named LABEL_sample_NUMBER.npy in the folders 0 and 1")
    return [(path, label) for _, label, path in sorted(found)]


def video_sample(example: Example) -> Sample:
    """The sample of a `tfrecord` record: `video` raw float32 (t, h, w, 3), ImageNet-normalised, back in uint8."""
    shape = checked_shape(example, ("num_frames", "height", "width", "channels"))
    video = denormalise(example.array("video", "float32", shape), IMAGENET_MEAN, IMAGENET_STD, example.where)
    return with_markers({"input": video, "label": label_below(example)}, example)


def flat_sample(example: Example) -> Sample:
    """The sample of a `flat` record: `image` raw uint8 (t, h, w, 3), t from its length; `label` is one byte."""
    height, width = example.integer("height"), example.integer("width")
    raw, label = example.bytes("image"), example.bytes("label")
    if not (1 <= height <= LARGEST and 1 <= width <= LARGEST) or not raw or len(raw) % (height * width * 3):
        raise DataError(f"{example.where}: {len(raw)} bytes of image are no frames of {height} x {width} x 3")
    if len(label) != 1 or label[0] not in (0, 1):
        raise DataError(f"{example.where}: label {label[:8]!r}, expected one byte, 0 or 1")
    video = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    return with_markers({"input": video, "label": np.int32(label[0])}, example)
