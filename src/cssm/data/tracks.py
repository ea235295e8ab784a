"""Tracks: videos of layers that move over each other, with the exact tracks of points, made on the fly.

Photographs and procedural textures on star polygons, superellipses and a background; turns, scales, smooth bending, a
moving camera with parallax, light, shadows, noise and motion blur; occlusions and re-appearances. The maths is in
`tracks_scene` and `tracks_kernel`, the textures, which are split by their source image, in `textures`.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from .dataset import DATASETS, DataSet, Spec, check_endless, check_split
from .formats.tapvid import TapVideo
from .source import Batch, Source, check_choice, check_range, checked_indices

EASY = {
    "layers": 3.0, "more_layers": 2.0, "smallest": 14.0, "largest": 44.0, "speed": 2.0, "sway": 12.0, "spin": 0.01,
    "zoom": 0.1, "bend": 0.1, "camera": 0.5, "light": 0.05, "noise": 0.01, "blur": 0.0, "shadow": 0.0,
}  # fmt: skip
HARD = {
    "layers": 3.0, "more_layers": 4.0, "smallest": 10.0, "largest": 56.0, "speed": 4.0, "sway": 24.0, "spin": 0.04,
    "zoom": 0.3, "bend": 0.3, "camera": 1.5, "light": 0.25, "noise": 0.03, "blur": 0.3, "shadow": 0.4,
}  # fmt: skip
CLEAN = HARD | dict.fromkeys(("light", "noise", "blur", "shadow"), 0.0)
LEVELS = {"easy": (EASY, EASY), "hard": (HARD, HARD), "mixed": (EASY, HARD), "clean": (CLEAN, CLEAN)}


@DATASETS.register("tracks")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tracks(DataSet):
    """Videos of moving layers with the exact tracks of points: where each is in every frame, and whether it is seen.

    A sample has `input` (t, h, w, 3), `query_points` (n, 3) (t, y, x), `tracks` (n, t, 2) (x, y) and `occluded` (n, t),
    in px, pixel centres at +.5. Lengths do not depend on the size of the frame, which is a window on the scene: a model
    trained on small frames meets the same motion in large ones. Points lie on textured places, not on edges; at least
    a fifth of them are hidden for 3 frames and come back.

    Raises UsageError when a value is out of range, or, on use, when scikit-image is not installed.

    >>> Tracks(frames=8, points=5).sample_spec["tracks"]
    Spec(shape=(5, 8, 2), dtype='float32')
    """

    frames: int = 24
    """Frames t of a video."""
    size: int = 128
    """Height and width, px."""
    points: int = 32
    """Points n that are tracked."""
    level: Literal["easy", "hard", "mixed", "clean"] = "mixed"
    """easy: few layers, slow, steady light. hard: many, fast, turning and bending, shadows, blur. mixed: between
    the two. clean: hard, with every pixel as bright as its texture."""
    start: Literal["first", "any"] = "first"
    """Queries: in the first frame a point is seen in; any: of train, half of them in any of the earlier frames."""

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    class_names: ClassVar[tuple[str, ...]] = ()
    baseline: ClassVar[str] = "static"

    def __post_init__(self):
        check_range("frames", self.frames, 2, 4096)
        check_range("size", self.size, 32, 1024)
        check_range("points", self.points, 1, 4096)
        check_choice("level", self.level, tuple(LEVELS))
        check_choice("start", self.start, ("first", "any"))

    @property
    def sample_spec(self) -> dict[str, Spec]:
        return track_spec(self.frames, self.size, self.size, self.points)

    def source(self, split: str = "train", *, size: int | None = None, seed: int = 0) -> "TracksSource":
        """`size` samples of a split; sample i depends on (seed, split, i) alone."""
        check_split(self, "tracks", split)
        return TracksSource(self, split, check_endless("tracks", size), seed)


def track_spec(frames: int, height: int, width: int, points: int) -> dict[str, Spec]:
    """The specification of a video with tracks."""
    return {
        "input": Spec((frames, height, width, 3), "uint8"),
        "query_points": Spec((points, 3), "float32"),
        "tracks": Spec((points, frames, 2), "float32"),
        "occluded": Spec((points, frames), "bool"),
    }


class TracksSource(Source):
    """Videos of one split, made when they are asked for."""

    def __init__(self, config: Tracks, split: str, size: int, seed: int):
        from . import rng
        from .textures import textures

        self.config, self.split, self.size, self.seed = config, split, size, seed
        self._key, self._textures = rng.stream_key(seed, split), textures(split)
        self._random_start = config.start == "any" and split == "train"

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        indices = checked_indices(indices, self.size)
        spec = self.config.sample_spec
        out = {name: np.zeros((len(indices), *each.shape), each.dtype) for name, each in spec.items()}
        for row, index in enumerate(indices):
            self._fill({name: array[row] for name, array in out.items()}, int(index))
        return out

    def scene(self, index: int) -> "Scene":
        """Sample `index` with the layers that it is made of, for `check_tracks`."""
        spec = self.config.sample_spec
        sample = {name: np.zeros(each.shape, each.dtype) for name, each in spec.items()}
        where = np.zeros((self.config.points, 3))
        return Scene(sample, where, *self._fill(sample, index, where))

    def _fill(self, sample: dict[str, np.ndarray], index: int, where: np.ndarray | None = None) -> Any:
        from .tracks_kernel import render
        from .tracks_scene import Difficulty

        easy, hard = (Difficulty(**level) for level in LEVELS[self.config.level])
        where = np.zeros((self.config.points, 3)) if where is None else where
        return render(
            self._key, index, easy, hard, *self._textures, self._random_start, sample["input"],
            sample["tracks"], sample["occluded"], sample["query_points"], where,
        )  # fmt: skip


FROZEN = {  # the videos of a frozen set never change: neither these lines nor what they draw
    f"synthetic-v1-{level}": Tracks(frames=24, size=256, points=32, level=level) for level in ("easy", "hard")
}
FROZEN_SIZE, FROZEN_SEED = 100, 1


def frozen(name: str) -> Iterator[TapVideo]:
    """The 100 videos of synthetic-v1-easy or synthetic-v1-hard, of textures that no training sees.

    >>> next(frozen("synthetic-v1-easy")).points.shape
    (32, 24, 2)
    """
    return videos(FROZEN[name].source("test", size=FROZEN_SIZE, seed=FROZEN_SEED), name)


def videos(source: Source, name: str) -> Iterator[TapVideo]:
    """The samples of a source with tracks in the form of TAP-Vid."""
    for index in range(len(source)):
        sample = source[index]
        height, width = sample["input"].shape[1:3]
        points = sample["tracks"].astype(np.float64) / (width, height)
        yield TapVideo(f"{name}-{index:03d}", sample["input"], points, sample["occluded"])


class Scene(NamedTuple):
    """A sample, where its points are (n, 3) (layer, u, v), and the layers: see `tracks_scene`."""

    sample: dict[str, np.ndarray]
    where: np.ndarray
    ground: np.ndarray
    tiles: np.ndarray
    sizes: np.ndarray
    places: np.ndarray
    bends: np.ndarray
    moments: int
