"""Pathfinder: are two marked contour ends on the same dashed contour?

Two target contours of dashed paddles lie among shorter distractor contours. Two discs mark the two ends of one
contour (label 1), or one end of each (label 0). From the published description (Linsley et al., "Learning
long-range spatial dependencies with horizontal gated recurrent units", NeurIPS 2018; the LRA versions: Tay et
al., "Long Range Arena", ICLR 2021), written anew; geometry in `pathfinder_contours`, drawing in `raster`.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from .dataset import DATASETS, DataSet, Spec, check_endless, check_split, marked_spec
from .source import Batch, Source, check_choice, check_range, checked_indices


class Layout(NamedTuple):
    """Sizes in window px; the table of the published generators."""

    window: int
    padding: int
    length: float  # of a paddle
    thickness: float
    margin: int  # half the gap between collinear paddles
    spare_margin: int  # the largest margin; each image draws from margin..spare_margin
    continuity: float  # turns are limited to 90 / continuity degrees
    seed_distance: float  # between the first tips of the two contours
    radius: float  # of a disc
    contrast: float  # of a paddle
    paddles: int  # distractor paddles, about
    turn_noise: float  # degrees


# turn_noise: with heads rounded to pixels and no more, contours come out straighter than the published ones;
# 5 degrees bring the marker distances of CL 9 and 14 to the published means. For LRA there is nothing to fit it on.
PRESETS = {
    "published": Layout(300, 22, 5.0, 2.0, 3, 3, 1.8, 27.0, 5.0, 1.0, 30, 5.0),
    "lra32": Layout(32, 1, 2.0, 0.5, 1, 1, 1.0, 7.0, 1.5, 0.75, 20, 0.0),
    "lra64": Layout(64, 1, 5.0, 1.0, 1, 1, 1.8, 12.0, 2.5, 0.8, 22, 0.0),
    "lra128": Layout(128, 1, 5.0, 1.5, 2, 3, 1.8, 20.0, 3.0, 0.9, 35, 0.0),
}
DIFFICULTIES = {"published": (6, 9, 14, 20, 25), "lra32": (6, 9, 14), "lra64": (6, 9, 14), "lra128": (6, 9, 14)}
NEGATIVES = ("published", "matched")


@DATASETS.register("pathfinder")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Pathfinder(DataSet):
    """Pathfinder, made on the fly: are two marked contour ends on the same dashed contour?

    Unlike the published code, contours that are stuck backtrack where it starts again, and nothing crosses a
    target contour (there, the last paddle of a growing contour was no obstacle). CL 20 and 25 extend the
    published rule; their own settings are not published.

    Raises UsageError when a value is unknown or out of range.

    >>> Pathfinder(difficulty=9).source("test", size=10)[4]["input"].shape
    (128, 128, 3)
    """

    difficulty: Literal[6, 9, 14, 20, 25] = 14
    """Paddles of a target contour (CL); the LRA presets have 6, 9 and 14."""
    size: int | None = None
    """Height and width of the image, px; None: 128 for published, the window itself for LRA. Drawn at the preset's
    window and resized bilinearly (antialiased, as Pillow does)."""
    negatives: Literal["published", "matched"] = "published"
    """published: ends of different contours as they come; marker distance alone then scores well above chance.
    matched: only scenes where the two ends that could carry the second disc are equally far (within 2 px of the
    window) from the first, so that distance says nothing about the label."""
    preset: Literal["published", "lra32", "lra64", "lra128"] = "published"
    """published: a window of 300 px. lra32, lra64, lra128 (Path-X): those of the Long Range Arena."""

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    class_names: ClassVar[tuple[str, ...]] = ("different contours", "same contour")
    baseline: ClassVar[str] = "markers"

    def __post_init__(self):
        check_choice("preset", self.preset, tuple(PRESETS))
        check_choice(f"with preset {self.preset} difficulty", self.difficulty, DIFFICULTIES[self.preset])
        check_choice("negatives", self.negatives, NEGATIVES)
        check_range("size", self.image_size, 8, 4096)

    @property
    def image_size(self) -> int:
        """Height and width of the image, px."""
        if self.size is not None:
            return self.size
        return 128 if self.preset == "published" else PRESETS[self.preset].window

    @property
    def sample_spec(self) -> dict[str, Spec]:
        return marked_spec(self.image_size, self.image_size, 3)

    @property
    def distractors(self) -> tuple[int, int]:
        """(length, number) of the distractor contours: a third of the target's, and as many as fill the scene."""
        length = self.difficulty // 3
        return length, PRESETS[self.preset].paddles // length

    def source(self, split: str = "train", *, size: int | None = None, seed: int = 0) -> "PathfinderSource":
        """`size` samples of a split; sample i depends on (seed, split, i) alone."""
        check_split(self, "pathfinder", split)
        return PathfinderSource(self, split, check_endless("pathfinder", size), seed)


class PathfinderSource(Source):
    """Images of one split, made when they are asked for."""

    def __init__(self, config: Pathfinder, split: str, size: int, seed: int):
        from . import pathfinder_contours, raster, rng

        self.config, self.split, self.size, self.seed = config, split, size, seed
        self._key = rng.stream_key(seed, split)
        self._layout = PRESETS[config.preset]
        self._taps = raster.bilinear_taps(self._layout.window, config.image_size)
        self._render = pathfinder_contours.render_batch

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        indices = checked_indices(indices, self.size)
        image = np.empty((len(indices), *self.config.sample_spec["input"].shape), np.uint8)
        label = np.empty(len(indices), np.int32)
        markers = np.empty((len(indices), 2, 2), np.float32)
        length, number = self.config.distractors
        matched = self.config.negatives == "matched"
        scene = (self._layout, self.config.difficulty, length, number, matched)
        self._render(self._key, indices, *scene, self._taps, image, label, markers)
        return {"input": image, "label": label, "markers": markers}
