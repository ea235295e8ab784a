"""PathTracker: follow one of several identical moving dots; nothing but its motion tells it apart.

A red ring marks where the target starts. A blue ring marks where the target ends (label 1) or where a foil,
another dot, ends (label 0). Both rings are on every frame, and target and foil are drawn in both classes.
From the published description (Linsley et al., "Tracking without re-recognition in humans and machines",
NeurIPS 2021), written anew. The path and the three styles are in `pathtracker_kernel`.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from cssm.core.errors import UsageError

from .dataset import DATASETS, DataSet, Spec, check_endless, check_split, marked_spec
from .source import Batch, Source, check_choice, check_range, checked_indices

STYLES = ("restyled", "equal", "published")
FOILS = ("matched", "nearest", "random")
SIZE = 32  # px, height and width
POINTS = 326  # points of one path: 65 headings of 5 steps, and the start


@DATASETS.register("pathtracker", aliases=("girik",))
@dataclasses.dataclass(frozen=True, kw_only=True)
class PathTracker(DataSet):
    """PathTracker, made on the fly: follow one of several identical moving dots, 32 x 32 px.

    Raises UsageError when a value is out of range or the window is longer than a path (326 points).

    >>> source = PathTracker(frames=8).source("val", size=100)
    >>> source[3]["input"].shape, source.batch([0, 1])["label"].shape
    ((8, 32, 32, 3), (2,))
    """

    frames: int = 32
    """Frames t of a video, 2..326."""
    distractors: int = 14
    """Dots beside the target and the foil; 0 leaves those two alone."""
    style: Literal["restyled", "equal", "published"] = "restyled"
    """restyled: dots of 1 px, hollow rings, t frames sampled evenly from a window of 2t points. equal: every dot 2x2
    px. published: target and foil 2x2 but distractors 1 px, as in the published files, where dot size gives the
    target away; for comparison only."""
    foil: Literal["matched", "nearest", "random"] = "matched"
    """matched: the pair (start marker, end marker) has the same distribution in both classes, so marker positions say
    nothing about the label. nearest: the other dot that ends nearest to the target's end. random: any other dot;
    marker distance alone then scores far above chance."""
    skip: int = 1
    """Path points from one frame to the next: the speed."""

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    class_names: ClassVar[tuple[str, ...]] = ("different dot", "same dot")
    baseline: ClassVar[str] = "markers"

    def __post_init__(self):
        check_choice("style", self.style, STYLES)
        check_choice("foil", self.foil, FOILS)
        check_range("frames", self.frames, 2, POINTS)
        check_range("distractors", self.distractors, 0, 200)
        check_range("skip", self.skip, 1, POINTS)
        if self.window > POINTS:
            raise UsageError(
                f"{self.frames} frames at skip {self.skip} need {self.window} path points, a path has "
                f"{POINTS}: ask for fewer frames or a smaller skip"
            )
        if self.foil == "matched" and self.window < 8:
            raise UsageError(f"foil 'matched' needs a window of 8 path points, got {self.window}: ask for more frames")

    @property
    def window(self) -> int:
        """Path points that one video spans."""
        return self.frames * self.skip * (2 if self.style == "restyled" else 1)

    @property
    def sample_spec(self) -> dict[str, Spec]:
        return marked_spec(self.frames, SIZE, SIZE, 3)

    def frame_points(self) -> np.ndarray:
        """Offsets (t,) of the frames in the window; `restyled` takes t of 2t by a rounded linspace."""
        if self.style == "restyled":
            return np.round(np.linspace(0, 2 * self.frames - 1, self.frames)).astype(np.int64) * self.skip
        return np.arange(self.frames, dtype=np.int64) * self.skip

    def source(self, split: str = "train", *, size: int | None = None, seed: int = 0) -> "PathTrackerSource":
        """`size` samples of a split; sample i depends on (seed, split, i) alone."""
        check_split(self, "pathtracker", split)
        return PathTrackerSource(self, split, check_endless("pathtracker", size), seed)


class PathTrackerSource(Source):
    """Videos of one split, made when they are asked for."""

    def __init__(self, config: PathTracker, split: str, size: int, seed: int):
        from . import pathtracker_kernel, rng

        self.config, self.split, self.size, self.seed = config, split, size, seed
        self._key = rng.stream_key(seed, split)
        self._points = config.frame_points()
        self._render = pathtracker_kernel.render_batch

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        indices = checked_indices(indices, self.size)
        video = np.zeros((len(indices), *self.config.sample_spec["input"].shape), np.uint8)
        label = np.empty(len(indices), np.int32)
        markers = np.empty((len(indices), 2, 2), np.float32)
        style, foil = STYLES.index(self.config.style), FOILS.index(self.config.foil)
        points, n = self._points, self.config.distractors
        self._render(self._key, indices, points, n, style, foil, video, label, markers)
        return {"input": video, "label": label, "markers": markers}
