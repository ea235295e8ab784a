"""A point tracker judged as TAP-Vid does: video by video at 256 x 256 px, then the mean over videos."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cssm.core.errors import UsageError
from cssm.data.formats.tapvid import SIDE, TapVideo, open_tapvid
from cssm.data.tracks import FROZEN, frozen
from cssm.tasks.tapvid import (
    GAPS,
    MODES,
    evaluated,
    metrics_on,
    returned,
    sample_queries_first,
    sample_queries_strided,
    standing_still,
)

PUBLISHED = ("tapvid_davis", "tapvid_rgb_stacking", "tapvid_kinetics", "robotap", "tapvid")
Track = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Answer(NamedTuple):
    """What was said of a video's queries, and the truth, in px at 256 x 256."""

    name: str
    query_points: np.ndarray
    occluded: np.ndarray
    tracks: np.ndarray
    said_occluded: np.ndarray
    said_tracks: np.ndarray


class Scores(NamedTuple):
    """name -> metrics of each video, their mean over videos (NaN left out), and of all points and frames together."""

    videos: dict[str, dict[str, float]]
    mean: dict[str, float]
    pooled: dict[str, float]


def point_videos(name: str, data_dir: Path | None = None) -> Iterator[TapVideo]:
    """The videos of synthetic-v1-easy, synthetic-v1-hard, or of the published files in data_dir.

    Raises:
      UsageError: another name, or published videos without data_dir. DataError: as `open_tapvid`.
    """
    if name in FROZEN:
        if data_dir is not None:
            raise UsageError(f"{name} is generated, not read from files: leave --data-dir out")
        return frozen(name)
    if name not in PUBLISHED:
        raise UsageError(f"unknown videos {name!r}: choose {', '.join((*FROZEN, *PUBLISHED))}")
    if data_dir is None:
        raise UsageError(f"{name} is read from files: give its .pkl, or the folder with them, as --data-dir")
    return open_tapvid(data_dir)


def answers(track: Track, videos: Iterable[TapVideo], query_mode: str = "first") -> Iterator[Answer]:
    """What a tracker says of each video.

    Args:
      track: (video uint8 (T, 256, 256, 3), query points (N, 3) (t, y, x)) -> tracks (N, T, 2) (x, y), visible (N, T).
      query_mode: "first", or "strided": every fifth frame; a file's own queries win in "first".
    """
    if query_mode not in MODES:
        raise UsageError(f"unknown query mode {query_mode!r}: use {' or '.join(MODES)}")
    for each in videos:
        video, points = each.frames(), SIDE * each.points
        if each.query_points is not None and query_mode == "first":
            queries, truth, occluded = each.query_points * (1, SIDE, SIDE), points, each.occluded
        else:
            sample = sample_queries_first if query_mode == "first" else sample_queries_strided
            sampled = sample(each.occluded, points, video)
            queries, truth, occluded = (sampled[k][0] for k in ("query_points", "target_points", "occluded"))
        if len(queries):
            tracks, visible = track(video, queries.astype(np.float32))
            yield Answer(each.name, queries, occluded, truth, ~visible, tracks)


def score(answer: Answer, query_mode: str = "first") -> dict[str, float]:
    """TAP-Vid's metrics of a video, and the average Jaccard after a re-appearance, by the length of the gap too."""
    truth = answer.occluded[None], answer.tracks[None], answer.said_occluded[None], answer.said_tracks[None]
    queries = answer.query_points[None]
    found = metrics_on(evaluated(queries, truth[0].shape[-1], query_mode), *truth)
    after = {"jaccard_after_return": (GAPS[0][0], None)} | {f"jaccard_after_{_gap(gap)}": gap for gap in GAPS}
    for name, gap in after.items():
        found[name] = metrics_on(returned(queries, truth[0], *gap), *truth)["average_jaccard"]
    return {name: float(value[0]) for name, value in found.items()}


def _gap(gap: tuple[int, int | None]) -> str:
    return f"{gap[0]}_or_more" if gap[1] is None else f"{gap[0]}_to_{gap[1]}"


def score_all(found: Iterable[Answer], query_mode: str = "first") -> Scores:
    """The metrics of all answers."""
    kept = list(found)
    videos: dict[str, dict[str, float]] = {}
    for answer in kept:  # two files may have videos of one name
        same = sum(name.partition(" #")[0] == answer.name for name in videos)
        videos[f"{answer.name} #{same + 1}" if same else answer.name] = score(answer, query_mode)
    if not videos:
        raise UsageError("there is no video with a point to follow")
    names = next(iter(videos.values()))
    mean = {}
    for name in names:
        values = np.array([metrics[name] for metrics in videos.values()])
        mean[name] = float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else float("nan")
    return Scores(videos, mean, _pooled(kept, query_mode))


def _pooled(found: list[Answer], query_mode: str) -> dict[str, float]:
    """The metrics of all points and frames of all videos, as of one."""
    parts = []
    for answer in found:
        frames = evaluated(answer.query_points, answer.occluded.shape[-1], query_mode)
        arrays = (frames, answer.occluded, answer.tracks, answer.said_occluded, answer.said_tracks)
        parts.append([array.reshape(1, -1, 1, *array.shape[2:]) for array in arrays])
    frames, *rest = (np.concatenate(arrays, 1) for arrays in zip(*parts, strict=True))
    together = metrics_on(frames, rest[0], rest[1], rest[2], rest[3])
    return {name: float(value[0]) for name, value in together.items()}


def as_standing_still(answer: Answer) -> Answer:
    """What the static baseline says in the place of a tracker."""
    occluded, tracks = standing_still(answer.query_points, answer.occluded.shape[-1])
    return answer._replace(said_occluded=occluded, said_tracks=tracks)
