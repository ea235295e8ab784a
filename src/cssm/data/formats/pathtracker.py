"""Published PathTracker files: two TFRecord forms and one of array files."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from cssm.core.errors import DataError

from ..source import IMAGENET_MEAN, IMAGENET_STD, Sample, Source, check_choice, check_range
from .example import Example
from .images import denormalise
from .npy import read_npy
from .pathfinder import binary_label, checked_shape, with_markers
from .records import FileSource, cut, listing, spread_frames, take
from .tfrecord import TFRecordFiles

LAYOUTS = ("tfrecord", "flat", "npy")
LARGEST = 1 << 14  # px of a side, frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathTrackerFiles:
    """PathTracker from files.

    Args:
        root: the data folder.
        layout: `tfrecord`: ROOT/{train,val,test}/shard_%04d.tfrecord with normalised float32 `video`. `flat`: one
            folder of GZIP TFRecords train-* and test-* with raw uint8 `image` and a one-byte `label`; val is the last
            tenth of the train files. `npy`: ROOT/{0,1}/{label}_sample_{n}.npy, uint8 (t, h, w, 3), cut 80/10/10.
        frames: frames of a sample, spread evenly over the stored ones (rounded linspace); None takes all.
        skip_corrupt: leave unreadable videos out, counted and logged, instead of raising.
        cache: where `flat` keeps its unpacked files from one run to the next; None unpacks into a temporary folder.

    Raises UsageError for a bad option; `source` and reading raise DataError for missing, truncated or foreign files.
    """

    root: Path
    layout: Literal["tfrecord", "flat", "npy"] = "tfrecord"
    frames: int | None = None
    skip_corrupt: bool = False
    cache: Path | None = None

    def __post_init__(self):
        check_choice("layout", self.layout, LAYOUTS)
        check_range("frames", 1 if self.frames is None else self.frames, 1, LARGEST)

    @property
    def num_classes(self) -> int:
        return 2

    def source(self, split: str = "train", *, size: int | None = None, seed: int = 42) -> Source:
        """A split, or its first `size` samples; `seed` of the permutation that cuts `npy` sets."""
        check_choice("split", split, ("train", "val", "test"))
        if self.layout == "npy":
            return take(cut(self._arrays(), split, seed=seed), size)
        flat = self.layout == "flat"
        paths = (
            self._flat_paths(split) if flat else listing(Path(self.root) / split, (".tfrecord",), "PathTracker shards")
        )
        files = TFRecordFiles(
            paths, compression="gzip" if flat else None, cache=self.cache, skip_corrupt=self.skip_corrupt
        )
        sample = flat_sample if flat else video_sample

        def read(i: int) -> Sample:
            return self._thin(sample(Example(files.read(i), files.where(i))), files.where(i))

        return FileSource(
            len(files), read, files.where, skip_corrupt=self.skip_corrupt, already_left_out=files.left_out
        )

    def _thin(self, sample: Sample, where: str) -> Sample:
        return {**sample, "input": sample["input"][spread_frames(len(sample["input"]), self.frames, where)]}

    def _flat_paths(self, split: str) -> list[Path]:
        kind = "test" if split == "test" else "train"
        paths = [p for p in listing(Path(self.root), ("",), "PathTracker files") if p.name.startswith(f"{kind}-")]
        held = max(1, len(paths) // 10)
        if len(paths) < (1 if kind == "test" else 2):
            raise DataError(f"{self.root}: {len(paths)} files {kind}-*, too few for a {split} split")
        return {"train": paths[:-held], "val": paths[-held:], "test": paths}[split]

    def _arrays(self) -> FileSource:
        files = [
            (path, label)
            for label in (0, 1)
            for path in listing(Path(self.root) / str(label), (".npy",), "PathTracker arrays")
            if path.name.startswith(f"{label}_sample_")
        ]

        def read(i: int) -> Sample:
            path, label = files[i]
            video = read_npy(path, "uint8", 4)
            if video.shape[-1] != 3 or not video.size:
                raise DataError(f"{path}: a video of shape {video.shape}, expected (t, h, w, 3)")
            return self._thin({"input": video, "label": np.int32(label)}, str(path))

        return FileSource(len(files), read, lambda i: str(files[i][0]), skip_corrupt=self.skip_corrupt)


def video_sample(example: Example) -> Sample:
    """The sample of a `tfrecord` record: `video` raw float32 (t, h, w, 3), ImageNet-normalised, back in uint8."""
    shape = checked_shape(example, ("num_frames", "height", "width", "channels"))
    video = denormalise(example.array("video", "float32", shape), IMAGENET_MEAN, IMAGENET_STD, example.where)
    return with_markers({"input": video, "label": binary_label(example)}, example)


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
