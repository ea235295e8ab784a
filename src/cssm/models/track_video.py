"""A tracker on one video, NumPy arrays in and out: in parallel, in chunks that fit in memory, or frame by frame."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import ShapeError, UsageError

from .tracker import COARSE, Found, Tracked, Tracker, TrackerState


class Seen(NamedTuple):
    """What is said of n points in a frame."""

    tracks: np.ndarray
    """(n, 2) (x, y), px."""
    visible: np.ndarray
    """bool (n,)."""
    heat: np.ndarray | None = None
    """Logits of the places at stride 8, (n, h, w), where they were asked for."""


MODES = ("parallel", "stream")
ENCODED = 8  # frames at a time
WORKING = 400_000_000  # bytes of the maps of points that are followed at once, about
COPIES = 6  # of a belief, while it is computed


def track_video(tracker: Tracker, video, query_points, mode: str, bidirectional: bool, side: int | None) -> Tracked:
    """`Tracker.track`."""
    video, queries = np.asarray(video), np.asarray(query_points, np.float32)
    if mode not in MODES:
        raise UsageError(f"unknown mode {mode!r}: use {' or '.join(MODES)}")
    if bidirectional and mode == "stream":
        raise UsageError("a stream does not go back: use mode='parallel' with bidirectional=True")
    check_queries(queries, video)
    size = working_size(video.shape[1:3], side)
    scale = np.array([video.shape[2] / size[1], video.shape[1] / size[0]], np.float32)
    frames = _resized(video, size)
    small = queries.copy()
    small[:, 1:] /= scale[::-1]
    follow = _streamed if mode == "stream" else _parallel
    tracks, visible = follow(tracker, frames, small)
    if bidirectional:
        back = small.copy()
        back[:, 0] = len(video) - 1 - back[:, 0]
        earlier, seen = (x[:, ::-1] for x in _parallel(tracker, frames[::-1], back))
        before = np.arange(len(video)) < np.round(queries[:, :1])
        tracks, visible = np.where(before[..., None], earlier, tracks), np.where(before, seen, visible)
    else:
        tracks, visible = _still_before(tracks, visible, small)
    return Tracked((tracks * scale).astype(np.float32), visible)


def check_queries(queries: np.ndarray, video: Any) -> None:
    """Raises ShapeError, UsageError unless queries are (N, 3), at least one, in a video (T, H, W, 3)."""
    if video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ShapeError(f"the tracker takes a video (T, H, W, 3), got shape {video.shape}")
    if queries.ndim != 2 or queries.shape[1] != 3 or not len(queries):
        raise ShapeError(f"query points are (N, 3) of (t, y, x), at least one, got shape {queries.shape}")
    steps, height, width = video.shape[:3]
    if steps < 2:
        raise UsageError("the video has one frame: there is nothing to follow, give at least two")
    t, y, x = queries.T
    fits = (np.round(t) >= 0) & (np.round(t) < steps) & (y >= 0) & (y <= height) & (x >= 0) & (x <= width)
    if not fits.all():
        wrong = tuple(float(v) for v in queries[~fits][0])
        raise UsageError(
            f"query (t, y, x) = {wrong} is outside the video: {steps} frames, {width} px wide and {height} high"
        )


def working_size(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """(height, width) with the shorter side at `side`, the aspect ratio kept up to multiples of 8 px.

    >>> working_size((720, 1280), 256), working_size((97, 61), None)
    ((256, 456), (97, 61))
    """
    if side is None:
        return size
    if not 16 <= side <= 4096:
        raise UsageError(f"side is {side} px, expected 16..4096, or None")
    scale = side / min(size)
    height, width = (max(COARSE, round(scale * n / COARSE) * COARSE) for n in size)
    return height, width


def _resized(video: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from cssm.data.formats.video import resize_frame

    if video.shape[1:3] == size:
        return video
    if video.dtype != np.uint8:
        raise UsageError(f"a video of {video.dtype} is not resized: give uint8 pixels, or side=None")
    return np.stack([resize_frame(frame, size) for frame in video])


def _still_before(tracks, visible, queries):
    before = np.arange(tracks.shape[1]) < np.round(queries[:, :1])
    return np.where(before[..., None], queries[:, None, :0:-1], tracks), visible & ~before


@partial(jax.jit, static_argnums=0)
def _encode(graph, parameters, frames):
    return nnx.merge(graph, parameters)._encode(frames)


@partial(jax.jit, static_argnums=0)
def _found(graph, parameters, fine, coarse, queries) -> tuple[Any, Any]:
    found = nnx.merge(graph, parameters).found(fine, coarse, queries)
    return found.tracks, found.visible


@partial(jax.jit, static_argnums=0)
def step(graph, parameters, state: TrackerState, frame) -> tuple[TrackerState, Found]:
    """`Tracker.step`, compiled once for a tracker and a size of frames."""
    return nnx.merge(graph, parameters).step(state, frame)


def _parallel(tracker: Tracker, frames: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    graph, parameters = nnx.split(tracker)
    features = []
    for begin in range(0, len(frames), ENCODED):
        part = frames[begin : begin + ENCODED]
        part = np.concatenate([part, np.repeat(part[-1:], ENCODED - len(part), 0)])  # one program for all
        features.append(_encode(graph, parameters, part[None]))
    fine, coarse = (jnp.concatenate(parts, 1)[:, : len(frames)] for parts in zip(*features, strict=True))
    cells = coarse.shape[1] * coarse.shape[2] * coarse.shape[3]
    chunk = max(1, min(len(queries), WORKING // (4 * COPIES * tracker.config.channels * cells)))
    tracks, visible = [], []
    for begin in range(0, len(queries), chunk):
        part = queries[begin : begin + chunk]
        filled = np.concatenate([part, np.repeat(part[-1:], chunk - len(part), 0)])
        found = _found(graph, parameters, fine, coarse, filled[None])
        tracks.append(np.asarray(found[0][0])[: len(part)])
        visible.append(np.asarray(found[1][0])[: len(part)])
    return np.concatenate(tracks), np.concatenate(visible)


def _streamed(tracker: Tracker, frames: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = [*stream_points(tracker, iter(frames), frames.shape[1:3], queries)]
    return np.stack([f.tracks for f in found], 1), np.stack([f.visible for f in found], 1)


def stream_points(
    tracker: Tracker, frames: Iterator[np.ndarray], size: tuple[int, int], queries: np.ndarray, heat: bool = False
) -> Iterator[Seen]:
    """What is said of every query in each frame, as the frames come: tracks (n, 2), visible (n,).

    Args:
      frames: uint8 (h, w, 3) of `size`. queries: (n, 3) (t, y, x) px of these frames.
    """
    graph, parameters = nnx.split(tracker)
    state, start = tracker.init_state(1, size, max_points=len(queries)), np.round(queries[:, 0]).astype(int)
    for t, frame in enumerate(frames):
        new = np.flatnonzero(start == t)
        if len(new):
            state = tracker.add_points(state, frame[None], queries[new, :0:-1], slots=new)
        state, found = step(graph, parameters, state, frame[None])
        maps = np.asarray(found.heat[0]) if heat else None
        yield Seen(np.asarray(found.tracks[0]), np.asarray(found.visible[0]) & (start <= t), maps)
