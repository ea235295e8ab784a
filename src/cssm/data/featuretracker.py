"""FeatureTracker: follow one moving dot among others while the colour of every dot changes.

PathTracker's paths and rings; each dot starts at its own hue and goes on 360/64 degrees a frame, round and round
one half of the hue circle, so neither place nor colour alone identifies it. Training on one half of the hues and
testing on the other asks for generalisation. From the published description (Muzellec et al., "Tracking objects
that change in appearance with phase synchrony", ICLR 2025), written anew.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from cssm.core.errors import UsageError

from .dataset import DATASETS, DataSet, Spec, check_endless, check_split, marked_spec
from .pathtracker import FOILS, POINTS, SIZE
from .source import Batch, Source, check_choice, check_range, checked_indices

HUES = ("first", "second")


@DATASETS.register("featuretracker")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureTracker(DataSet):
    """FeatureTracker, made on the fly: follow one of several dots whose colours change, 32 x 32 px.

    Dots of 2x2 px, a red ring where the target starts, a blue one where a dot ends. Raises UsageError when a value is
    out of range or the window is longer than a path (326 points).

    >>> FeatureTracker(frames=16).source("val", size=4)[0]["input"].shape
    (16, 32, 32, 3)
    """

    frames: int = 32
    """Frames t of a video, 2..326."""
    distractors: int = 10
    """Dots beside the target and the foil."""
    hues: Literal["first", "second"] = "first"
    """Half of the hue circle. first: from red over green to cyan. second: from cyan over blue to red."""
    foil: Literal["matched", "nearest", "random"] = "nearest"
    """nearest: the dot that ends nearest to the target's end, as published. matched, random: as in PathTracker."""
    skip: int = 1
    """Path points from one frame to the next: the speed."""

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    class_names: ClassVar[tuple[str, ...]] = ("different dot", "same dot")
    baseline: ClassVar[str] = "markers"

    def __post_init__(self):
        check_choice("hues", self.hues, HUES)
        check_choice("foil", self.foil, FOILS)
        check_range("frames", self.frames, 2, POINTS)
        check_range("distractors", self.distractors, 0, 200)
        check_range("skip", self.skip, 1, POINTS)
        check_range("path points of the window (frames x skip)", self.frames * self.skip, 2, POINTS)
        if self.foil == "matched" and self.frames * self.skip < 8:
            raise UsageError(f"foil 'matched' needs 8 path points, got {self.frames * self.skip}: ask for more frames")

    @property
    def sample_spec(self) -> dict[str, Spec]:
        return marked_spec(self.frames, SIZE, SIZE, 3)

    def source(self, split: str = "train", *, size: int | None = None, seed: int = 0) -> "FeatureTrackerSource":
        """`size` samples of a split; sample i depends on (seed, split, i) alone."""
        check_split(self, "featuretracker", split)
        return FeatureTrackerSource(self, split, check_endless("featuretracker", size), seed)


class FeatureTrackerSource(Source):
    """Videos of one split, made when they are asked for."""

    def __init__(self, config: FeatureTracker, split: str, size: int, seed: int):
        from . import featuretracker_kernel, rng

        self.config, self.split, self.size, self.seed = config, split, size, seed
        self._key = rng.stream_key(seed, split)
        self._points = np.arange(config.frames, dtype=np.int64) * config.skip
        self._render = featuretracker_kernel.render_batch

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        indices = checked_indices(indices, self.size)
        video = np.zeros((len(indices), *self.config.sample_spec["input"].shape), np.uint8)
        label = np.empty(len(indices), np.int32)
        markers = np.empty((len(indices), 2, 2), np.float32)
        half, foil = HUES.index(self.config.hues), FOILS.index(self.config.foil)
        self._render(self._key, indices, self._points, self.config.distractors, half, foil, video, label, markers)
        return {"input": video, "label": label, "markers": markers}
