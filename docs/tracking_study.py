"""Measure the point tracker and write the tables of docs/tracking.md. Run by hand, with scikit-image, OpenCV and PyAV.

    python docs/tracking_study.py tracker_small RUN_WITHOUT_MEMORY          about a quarter of an hour on two cores

The model, on the 100 videos each of synthetic-v1-easy and -hard, beside: points that stand still; the place of the
largest correlation of every frame alone, by the model's own encoder; the same model trained for as long without memory;
the pyramidal Lucas-Kanade tracker of OpenCV, frame to frame. Thresholds of the baselines are chosen on the val split.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.data.tracks import FROZEN, Tracks, frozen, videos
from cssm.models.tracker import _place
from cssm.recipes.points import answers, score_all, still
from cssm.weights import find_tracker

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "bench" / "tracking.json"
COLUMNS = ("average_jaccard", "average_pts_within_thresh", "occlusion_accuracy", "jaccard_after_return")
LONGEST = 3.0  # px that Lucas-Kanade may be off after going forward and back


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
        maps = flat @ model.direct[...]
        return 8 * _place(maps)[0], flat.sum(-1).max((2, 3)) / model.sharpness[...].sum()

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


def main(arguments: list[str]) -> None:
    name, rest = arguments[0], arguments[1:]
    tracker = find_tracker(name)
    contenders = {"standing still": still, "Lucas-Kanade (OpenCV)": lucas_kanade}
    contenders["correlation of each frame"] = correlation(tracker, chosen_threshold(tracker))
    if rest:
        contenders["without memory"] = by_model(find_tracker(rest[0]))
    contenders[name] = by_model(tracker)
    record, lines = {}, []
    for data in FROZEN:
        clips = list(frozen(data))
        lines += [f"**{data}**", "", "| | AJ | <delta_avg> | OA | AJ after return |", "|---|---|---|---|---|"]
        for title, track in contenders.items():
            scores = score_all(answers(track, clips))
            record.setdefault(data, {})[title] = {"mean": scores.mean, "pooled": scores.pooled} | {
                "jaccard": [round(metrics["average_jaccard"], 4) for metrics in scores.videos.values()]
            }
            row = " | ".join(f"{100 * scores.mean[column]:.1f}" for column in COLUMNS)
            lines.append(f"| {title} | {row} |")
            print(lines[-1], flush=True)
        lines.append("")
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    page = ROOT / "docs" / "tracking.md"
    before, _, rest_of_page = page.read_text().partition("<!-- scores -->\n")
    after = rest_of_page.partition("<!-- end of scores -->\n")[2]
    page.write_text(before + "<!-- scores -->\n" + "\n".join(lines) + "<!-- end of scores -->\n" + after)


if __name__ == "__main__":
    main(sys.argv[1:])
