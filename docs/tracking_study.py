"""Measure the point tracker and write the tables of docs/tracking.md. Run by hand, with scikit-image, OpenCV and PyAV.

    python docs/tracking_study.py tracker_small --without-memory RUN --video clip.mp4 --video other.mp4
                                                                            about a quarter of an hour on two cores

The model, on the 100 videos each of synthetic-v1-easy and -hard, beside: points that stand still; the place of the
largest correlation of every frame alone, by the model's own encoder; the same model trained for as long without memory;
the pyramidal Lucas-Kanade tracker of OpenCV, frame to frame. Thresholds of the baselines are chosen on the val split.
With --video also real frames: how far points that are followed to the end of a video and back are from where they
began; and frames of it moved by known smooth motions, whose tracks are known.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.data.formats.tapvid import TapVideo
from cssm.data.formats.video import read_video, resize_frame
from cssm.data.tracks import FROZEN, Tracks, frozen, videos
from cssm.models.tracker import near_largest
from cssm.nn.belief import FASTER
from cssm.nn.parts.pyramid import COARSE
from cssm.recipes import load_saved
from cssm.recipes.points import answers, score_all
from cssm.shared.resident_memory import resident_memory
from cssm.tasks.tapvid import standing_still
from cssm.weights import find_tracker

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "bench" / "tracking.json"
COLUMNS = ("average_jaccard", "average_pts_within_thresh", "occlusion_accuracy", "jaccard_after_return")
LONGEST = 3.0  # px that Lucas-Kanade may be off after going forward and back


def standing(video, queries):
    occluded, tracks = standing_still(queries, len(video))
    return tracks, ~occluded


def by_model(tracker) -> Callable:
    return lambda video, queries: tracker.track(video, queries, side=None)


def correlation(tracker, threshold: float) -> Callable:
    """The mean place about the largest correlation of every frame; seen where the correlation is above a threshold."""
    graph, params = nnx.split(tracker)

    @jax.jit
    def compared(params, video, queries):
        model = nnx.merge(graph, params)
        fine, coarse = model._encode(video)
        start = jnp.round(queries[..., 0]).astype(int)
        query = model._query_of(fine, coarse, start, queries[..., :0:-1])
        flat = model._compared(query.coarse, coarse).reshape(queries.shape[1], *coarse.shape[1:4], -1)
        maps = flat @ (FASTER * model.direct[...])
        return COARSE * near_largest(jax.nn.softmax(maps, (2, 3)))[0], flat.sum(-1).max((2, 3)) / (
            FASTER * model.sharpness[...].sum()
        )

    def track(video, queries):
        places, largest = compared(params, video[None], queries[None])
        return np.asarray(places), np.asarray(largest) > threshold

    return track


def lucas_kanade(video, queries):
    """Frame to frame; a point is lost, and hidden, once it does not come back to within LONGEST px."""
    import cv2

    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in video]
    tracks = np.repeat(queries[:, None, :0:-1], len(video), 1).astype(np.float32)
    visible = np.zeros(tracks.shape[:2], bool)
    options = {"winSize": (21, 21), "maxLevel": 3}
    for n, start in enumerate(np.round(queries[:, 0]).astype(int)):
        visible[n, start] = True
    for t in range(1, len(video)):
        alive = np.flatnonzero(visible[:, t - 1])
        tracks[:, t] = np.where((np.round(queries[:, 0]) < t)[:, None], tracks[:, t - 1], tracks[:, t])
        if not len(alive):
            continue
        before = tracks[alive, t - 1][:, None]
        after, found, _ = cv2.calcOpticalFlowPyrLK(grey[t - 1], grey[t], before, None, **options)
        back, _, _ = cv2.calcOpticalFlowPyrLK(grey[t], grey[t - 1], after, None, **options)
        height, width = grey[t].shape
        inside = ((after[:, 0] >= 0) & (after[:, 0] < (width, height))).all(-1)
        good = (found[:, 0] > 0) & (np.hypot(*(back - before)[:, 0].T) < LONGEST) & inside
        tracks[alive, t] = np.where(good[:, None], after[:, 0], before[:, 0])
        visible[alive[good], t] = True
    return tracks, visible


def chosen_threshold(tracker) -> float:
    """Of the correlation, on 20 videos of the val split."""
    clips = list(videos(Tracks(frames=24, size=256, points=32).source("val", size=20), "val"))
    scores = {
        value: score_all(answers(correlation(tracker, value), clips)).mean["average_jaccard"]
        for value in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    }
    return max(scores, key=lambda value: scores[value])


def there_and_back(tracker, video: np.ndarray) -> dict[str, float]:
    """px, at 256 px, between a grid of points and where they are after the video forwards and then backwards."""
    size = (256, 256)
    frames = np.stack([resize_frame(frame, size) for frame in video])
    y, x = np.meshgrid(np.arange(24, 256, 16.0), np.arange(24, 256, 16.0), indexing="ij")
    queries = np.stack([0 * x.ravel(), y.ravel(), x.ravel()], -1).astype(np.float32)
    tracks, visible = tracker.track(frames, queries, side=None)
    seen = visible[:, -1] & ((tracks[:, -1] >= 0) & (tracks[:, -1] <= 256)).all(-1)
    back = np.concatenate([np.zeros((seen.sum(), 1)), tracks[seen, -1, ::-1]], 1).astype(np.float32)
    ends, _ = tracker.track(frames[::-1], back, side=None)
    away = np.hypot(*(ends[:, -1] - queries[seen, :0:-1]).T)
    moved = np.hypot(*(tracks[seen, -1] - queries[seen, :0:-1]).T)
    return {
        "points": float(seen.sum()), "frames": float(len(video)), "median": float(np.median(away)),
        "90%": float(np.quantile(away, 0.9)), "below 4 px": float((away < 4).mean()),
        "moved, median": float(np.median(moved)),
    }  # fmt: skip


def moved_frames(video: np.ndarray, name: str, steps: int = 24, count: int = 4) -> list[TapVideo]:
    """Single frames of a video under smooth known motions: turns, scales, shifts, bending; every track is exact."""
    clips = []
    for k, index in enumerate(np.linspace(0, len(video) - 1, count).round().astype(int)):
        rng = np.random.RandomState(k)
        frame = resize_frame(video[index], (256, 256)).astype(np.float32)
        t = np.arange(steps) / (steps - 1)
        turn, grow = rng.uniform(-0.5, 0.5) * t, np.exp(rng.uniform(-0.3, 0.3) * t)
        shift = rng.uniform(-50, 50, 2) * np.sin(np.pi * t)[:, None] + rng.uniform(-30, 30, 2) * t[:, None]
        bend, phase = 6 * np.sin(np.pi * t), rng.uniform(0, 6, 2)

        def source(points, i, turn=turn, grow=grow, shift=shift, bend=bend, phase=phase):
            """Where the colour of places (..., 2) of frame i is in the first frame."""
            c, s, away = np.cos(turn[i]) / grow[i], np.sin(turn[i]) / grow[i], points - 128 - shift[i]
            w = np.stack([c * away[..., 0] + s * away[..., 1], c * away[..., 1] - s * away[..., 0]], -1)
            wave = np.stack([np.sin(w[..., 1] / 24 + phase[0]), np.sin(w[..., 0] / 24 + phase[1])], -1)
            return 128 + w + bend[i] / 2 * wave

        def place(at, i, source=source):
            """The place of frame i whose colour is at `at` of the first frame, by iteration."""
            found = at.copy()
            for _ in range(200):
                found = found + 0.7 * (at - source(found, i))
            return found

        y, x = np.mgrid[:256, :256] + 0.5
        frames = [_bilinear(frame, source(np.stack([x, y], -1), i)) for i in range(steps)]
        grid = np.stack(np.meshgrid(np.arange(40, 217, 22.0), np.arange(40, 217, 22.0)), -1).reshape(-1, 2)
        points = np.stack([place(grid, i) for i in range(steps)], 1)
        occluded = ((points < 0) | (points >= 256)).any(-1)
        clips.append(TapVideo(f"{name}-{k}", np.stack(frames), points / 256, occluded))
    return clips


def _bilinear(frame: np.ndarray, places: np.ndarray) -> np.ndarray:
    """uint8 samples of a frame (h, w, 3) at places (..., 2) px; black outside."""
    x, y = places[..., 0] - 0.5, places[..., 1] - 0.5
    inside = (x >= 0) & (y >= 0) & (x < frame.shape[1] - 1) & (y < frame.shape[0] - 1)
    j, i = np.where(inside, x, 0).astype(int), np.where(inside, y, 0).astype(int)
    t, s = (np.where(inside, v - k, 0)[..., None] for v, k in ((x, j), (y, i)))
    upper, lower = ((1 - t) * frame[k, j] + t * frame[k, j + 1] for k in (i, i + 1))
    mixed = (1 - s) * upper + s * lower
    return np.rint(np.where(inside[..., None], mixed, 0)).astype(np.uint8)


def memory_of_a_long_stream(tracker, frames: int = 2000) -> list[str]:
    """Resident memory and the largest entry of the state, along a stream of 64 x 64 px with 8 points."""
    rng, lines = np.random.RandomState(0), []
    graph, params = nnx.split(tracker)
    step = jax.jit(lambda params, state, frame: nnx.merge(graph, params).step(state, frame))
    clip = rng.randint(0, 255, (50, 1, 64, 64, 3)).astype(np.uint8)
    state = tracker.add_points(tracker.init_state(1, (64, 64), max_points=8), clip[0], rng.uniform(0, 64, (8, 2)))
    for t in range(frames):
        state, _ = step(params, state, clip[t % 50])
        if t + 1 in (20, 200, frames // 2, frames):
            largest = max(float(jnp.abs(belief).max()) for belief in state.beliefs)
            held = resident_memory() or 0
            lines.append(f"frame {t + 1}: {held / 2**20:.0f} MiB, largest entry of the state {largest:.3f}")
    return lines


def table(contenders: dict[str, Callable], data: str, clips: list[TapVideo], record: dict) -> list[str]:
    """The lines of a table; the figures go to the record."""
    lines = [f"**{data}**", "", "| | AJ | δ avg | OA | AJ after return |", "|---|---|---|---|---|"]
    for title, track in contenders.items():
        scores = score_all(answers(track, clips))
        record.setdefault(data, {})[title] = {"mean": scores.mean, "pooled": scores.pooled} | {
            "jaccard": [round(metrics["average_jaccard"], 4) for metrics in scores.videos.values()]
        }
        cells = [f"{100 * scores.mean[column]:.1f}".replace("nan", "-") for column in COLUMNS]
        lines.append(f"| {title} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--without-memory")
    parser.add_argument("--video", type=Path, action="append", default=[])
    flags = parser.parse_args(arguments)
    tracker = find_tracker(flags.model)
    contenders = {"standing still": standing, "Lucas-Kanade (OpenCV)": lucas_kanade}
    contenders["correlation of each frame"] = correlation(tracker, chosen_threshold(tracker))
    if flags.without_memory:
        steps = load_saved(Path(flags.without_memory)).train.steps
        contenders[f"without memory, {steps:,} steps"] = by_model(find_tracker(flags.without_memory))
    contenders[flags.model] = by_model(tracker)
    record: dict = {}
    lines = [line for data in FROZEN for line in table(contenders, data, list(frozen(data)), record)]
    for path in flags.video:
        video, _ = read_video(path)
        lines += table(contenders, f"frames of {path.stem}, moved", moved_frames(video, path.stem), record)
        found = there_and_back(tracker, video[:60])
        record[f"{path.stem}, there and back"] = found
        lines.append(f"{path.stem}, there and back: " + ", ".join(f"{k} {v:.3g}" for k, v in found.items()))
        print(lines[-1], flush=True)
        lines.append("")
    record["stream"] = memory_of_a_long_stream(tracker)
    print("\n".join(record["stream"]))
    lines += ["A stream of 2,000 frames: " + "; ".join(record["stream"]) + ".", ""]
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    page = ROOT / "docs" / "tracking.md"
    before, _, rest = page.read_text().partition("<!-- scores -->\n")
    after = rest.partition("<!-- end of scores -->\n")[2]
    page.write_text(before + "<!-- scores -->\n" + "\n".join(lines) + "<!-- end of scores -->\n" + after)


if __name__ == "__main__":
    main(sys.argv[1:])
