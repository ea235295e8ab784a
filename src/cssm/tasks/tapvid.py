"""The metrics of TAP-Vid, as published: names, arguments and results of the official evaluation.

A point that is predicted visible is a true positive below d px if its ground truth is visible and less than d px away;
otherwise it is a false positive. For d = 1, 2, 4, 8, 16 px at 256 x 256:

    Jaccard_d = true positives / (visible ground truth + false positives)        their mean: AJ
    pts_within_d = visible ground truth less than d px away / visible ground truth     their mean: <delta_avg>

and occlusion accuracy is how often visible or not is predicted rightly. Counts are pooled over the points and frames of
a video. Evaluated are, with query_mode "first", the frames after the query's, with "strided" all but the query's.

Source: Doersch et al. 2022, TAP-Vid: a benchmark for tracking any point in a video.
"""

from types import ModuleType
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike

from cssm.core.errors import ShapeError, UsageError

THRESHOLDS = (1, 2, 4, 8, 16)
MODES = ("first", "strided")
STRIDE = 5  # frames between the queries of "strided"
GAPS = ((3, 5), (6, 11), (12, None))  # frames of an occlusion, shortest and longest


def compute_tapvid_metrics(
    query_points: Annotated[ArrayLike, "b n 3"],
    gt_occluded: Annotated[ArrayLike, "b n t"],
    gt_tracks: Annotated[ArrayLike, "b n t 2"],
    pred_occluded: Annotated[ArrayLike, "b n t"],
    pred_tracks: Annotated[ArrayLike, "b n t 2"],
    query_mode: str,
) -> dict[str, np.ndarray]:
    """The metrics of each video, (b,) each; 0 / 0 is NaN.

    Args:
      query_points: (t, y, x). gt_occluded, pred_occluded: bool. gt_tracks, pred_tracks: (x, y) px at 256 x 256.
      query_mode: "first" or "strided".

    Returns:
      occlusion_accuracy, pts_within_d and jaccard_d for d = 1, 2, 4, 8, 16, average_pts_within_thresh,
      average_jaccard.

    Raises:
      ShapeError: shapes that do not fit. UsageError: another query mode.

    >>> tracks = np.zeros((1, 1, 5, 2))
    >>> seen = np.zeros((1, 1, 5), bool)
    >>> metrics = compute_tapvid_metrics(np.zeros((1, 1, 3)), seen, tracks, seen, tracks + (1, 0), "first")
    >>> round(float(metrics["average_jaccard"][0]), 4)  # 1 px away is not below 1 px
    0.8
    """
    arrays = [np.asarray(x) for x in (query_points, gt_occluded, gt_tracks, pred_occluded, pred_tracks)]
    query_points, gt_occluded, gt_tracks, pred_occluded, pred_tracks = arrays
    _check(*arrays)
    after = evaluated(query_points, gt_occluded.shape[-1], query_mode)
    with np.errstate(invalid="ignore", divide="ignore"):
        return metrics_on(after, gt_occluded.astype(bool), gt_tracks, pred_occluded.astype(bool), pred_tracks)


def metrics_on(
    frames: Any, gt_occluded: Any, gt_tracks: Any, pred_occluded: Any, pred_tracks: Any, xp: ModuleType = np
) -> dict[str, Any]:
    """The metrics of each video (b,) on `frames` (b, n, t) bool alone. xp: numpy, or jax.numpy for JAX's arrays."""
    count = lambda which: (which & frames).sum((1, 2))  # noqa: E731
    ratio = lambda a, b: xp.where(b > 0, a / xp.maximum(b, 1), xp.nan)  # noqa: E731
    visible, said = ~gt_occluded, ~pred_occluded
    squares = xp.square(pred_tracks - gt_tracks).sum(-1)
    found = {"occlusion_accuracy": ratio(count(visible == said), count(frames))}
    within, jaccards = [], []
    for threshold in THRESHOLDS:
        near = squares < threshold**2
        right = near & visible
        within.append(ratio(count(right), count(visible)))
        jaccards.append(ratio(count(right & said), count(visible) + count(said & ~right)))
        found |= {f"pts_within_{threshold}": within[-1], f"jaccard_{threshold}": jaccards[-1]}
    found["average_pts_within_thresh"] = xp.stack(within, -1).mean(-1)
    found["average_jaccard"] = xp.stack(jaccards, -1).mean(-1)
    return found


def evaluated(query_points: Any, steps: int, query_mode: str, xp: ModuleType = np) -> Any:
    """Which frames count, (b, n, t) bool: those after the query's, or all others. Raises UsageError: another mode."""
    if query_mode not in MODES:
        raise UsageError(f"unknown query mode {query_mode!r}: use {' or '.join(MODES)}")
    start, times = xp.round(query_points[..., :1]), xp.arange(steps)  # half to even
    return times > start if query_mode == "first" else times != start


def returned(
    query_points: Any, gt_occluded: Any, shortest: int = GAPS[0][0], longest: int | None = None, xp: ModuleType = np
) -> Any:
    """Frames in which a point is seen again after an occlusion of shortest..longest frames, until the next: (b, n, t).

    Only occlusions after the query's frame count.

    >>> occluded = np.array([[[False, True, True, True, False, False, True, False]]])
    >>> returned(np.zeros((1, 1, 3)), occluded).astype(int).tolist()
    [[[0, 0, 0, 0, 1, 1, 0, 0]]]
    """
    steps = gt_occluded.shape[-1]
    times, start = xp.arange(steps), xp.round(query_points[..., :1])
    hidden = gt_occluded & (times > start)
    latest = lambda which: xp.maximum.accumulate(xp.where(which, times, -1), axis=-1)  # noqa: E731
    end = latest(hidden)  # of the occlusion before a frame
    begin = xp.take_along_axis(latest(~hidden), xp.maximum(end, 0), -1)
    length = end - begin
    return ~hidden & (end >= 0) & (length >= shortest) & (length <= (steps if longest is None else longest))


def standing_still(query_points: Any, steps: int) -> tuple[Any, Any]:
    """(occluded, tracks) of the static baseline: points (..., n, 3) are seen, and stay where they were."""
    tracks = np.repeat(np.asarray(query_points)[..., None, :0:-1], steps, -2)
    return np.zeros(tracks.shape[:-1], bool), tracks


def sample_queries_first(
    target_occluded: Annotated[ArrayLike, "n t"],
    target_points: Annotated[ArrayLike, "n t 2"],
    frames: Annotated[ArrayLike, "t h w 3"],
) -> dict[str, np.ndarray]:
    """Each point from the first frame it is seen in; points that are never seen are left out.

    Args:
      target_occluded: bool. target_points: (x, y) px. frames: the video.

    Returns:
      With a leading axis of one video: video, query_points (1, n, 3) (t, y, x), target_points, occluded.

    >>> occluded = np.array([[True, False, False], [True, True, True]])
    >>> points = np.arange(12.0).reshape(2, 3, 2)
    >>> sample_queries_first(occluded, points, np.zeros((3, 4, 4, 3)))["query_points"].tolist()
    [[[1.0, 3.0, 2.0]]]
    """
    occluded, points = np.asarray(target_occluded, bool), np.asarray(target_points)
    seen = ~occluded.all(-1)
    occluded, points = occluded[seen], points[seen]
    first = np.argmin(occluded, -1)
    places = points[np.arange(len(points)), first]
    queries = np.stack([first, places[:, 1], places[:, 0]], -1).astype(np.float64).reshape(-1, 3)
    return _one_video(frames, queries, points, occluded)


def sample_queries_strided(
    target_occluded: Annotated[ArrayLike, "n t"],
    target_points: Annotated[ArrayLike, "n t 2"],
    frames: Annotated[ArrayLike, "t h w 3"],
    query_stride: int = STRIDE,
) -> dict[str, np.ndarray]:
    """Each point from every query_stride-th frame that it is seen in: one track for each of these queries.

    Args and Returns: as `sample_queries_first`.
    """
    occluded, points = np.asarray(target_occluded, bool), np.asarray(target_points)
    which = [(t, n) for t in range(0, occluded.shape[1], query_stride) for n in np.flatnonzero(~occluded[:, t])]
    times, rows = np.array(which, int).reshape(-1, 2).T
    places = points[rows, times]
    queries = np.stack([times, places[:, 1], places[:, 0]], -1).astype(np.float64).reshape(-1, 3)
    return _one_video(frames, queries, points[rows], occluded[rows])


def _one_video(frames, queries, points, occluded) -> dict[str, np.ndarray]:
    values = {"video": np.asarray(frames), "query_points": queries, "target_points": points, "occluded": occluded}
    return {name: value[None] for name, value in values.items()}


def _check(query_points, gt_occluded, gt_tracks, pred_occluded, pred_tracks) -> None:
    shape = gt_occluded.shape
    expected = {
        "query_points": (*shape[:2], 3), "gt_occluded": shape, "gt_tracks": (*shape, 2), "pred_occluded": shape,
        "pred_tracks": (*shape, 2),
    }  # fmt: skip
    found = (query_points, gt_occluded, gt_tracks, pred_occluded, pred_tracks)
    for (name, wanted), array in zip(expected.items(), found, strict=True):
        if len(shape) != 3 or array.shape != wanted:
            raise ShapeError(f"{name} has shape {array.shape}, expected {wanted}: (b, n, t) with gt_occluded {shape}")
