"""Point tracking: where each query point is in every later frame, and whether it is seen.

The loss, over frames after the query's: cross-entropy of the last heat map and of those beneath it, the Huber loss of
the place of the heat map and of each refinement where that first place is within REACH, and binary cross-entropy of
occluded and of unsure (the place is more than SURE px wrong), each times its weight. The monitored figure is the
average Jaccard of TAP-Vid, in px of the frames.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cssm.core.errors import DataError, UsageError
from cssm.core.typing import Float
from cssm.data import DataSet, Source
from cssm.data.baselines import Baseline
from cssm.nn.parts.pyramid import COARSE, as_float

from .tapvid import THRESHOLDS, evaluated, metrics_on, returned, standing_still
from .task import Batch, Figures, Loss, Model, Monitor, Sums, check_parts

SURE = 8.0  # px
HUBER = {"rough": 4.0, "refined": 2.0, "place": 1.0}  # px, where the loss of a distance turns linear
WEIGHTS = {"heat": 0.5, "beneath": 0.5, "rough": 0.02, "refined": 0.1, "place": 0.3, "occluded": 1.0, "unsure": 0.5}
REACH = 16.0  # px: from places that are further off no way leads to the true one, and none is shown
HIDDEN = 0.2  # the weight of a hidden place, inside the frame, in the loss of the heat map
NAMES = ("average_jaccard", "average_pts_within_thresh", "occlusion_accuracy", *(f"jaccard_{d}" for d in THRESHOLDS))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Track:
    """Follow points through a video.

    >>> Track().monitor.name
    'average_jaccard'
    """

    keys: ClassVar[tuple[str, ...]] = ("input", "query_points", "tracks", "occluded")

    @property
    def monitor(self) -> Monitor:
        return Monitor("average_jaccard")

    @property
    def outputs(self) -> int:
        return 0

    def fitted(self, data: DataSet) -> "Track":
        del data
        return self

    def check(self, data: DataSet, model: Model) -> None:
        if not getattr(model, "follows_points", False):
            raise UsageError(f"{type(model).__name__} follows no points: choose a tracker, or another task")
        check_parts(self, data, model)

    def prepare(self, batch: Batch, dtype: Any = None) -> dict[str, Any]:
        """The batch with pixels from -1 to 1, in `dtype` if one is given."""
        x = as_float(jnp.asarray(batch["input"]))
        return {**batch, "input": x if dtype is None else x.astype(dtype)}

    def loss(self, model: Model, batch: Batch, key: jax.Array | None) -> Loss:
        """The loss of the module's docstring: each part the mean over its frames, of all points of the valid rows."""
        found = model(batch["input"], batch["query_points"], key=key)
        value, weight = self._value(found, batch)
        return Loss(value, weight, jax.lax.stop_gradient(_sums(found, batch, value, weight)))

    def evaluate(self, model: Model, batch: Batch) -> Sums:
        """Sums over videos of TAP-Vid's metrics, each with the number of videos that have it, and of their squares."""
        found = model(batch["input"], batch["query_points"])
        return _sums(found, batch, *self._value(found, batch))

    def summarise(self, sums: Sums) -> Figures:
        """The metrics, each a mean over videos, the standard error of AJ, `loss` and `count`."""
        if int(sums["count"]) == 0:
            raise DataError("no valid row was counted: the data is empty or every row has valid=False")
        mean = lambda name: float(sums[f"{name}_sum"]) / max(int(sums[f"{name}_videos"]), 1)  # noqa: E731
        figures = {name: mean(name) for name in (*NAMES, "jaccard_after_return")}
        videos = max(int(sums["average_jaccard_videos"]), 1)
        variance = float(sums["average_jaccard_squares"]) / videos - figures["average_jaccard"] ** 2
        figures["average_jaccard_error"] = (max(variance, 0.0) / videos) ** 0.5
        loss = float(sums["loss_sum"]) / max(float(sums["frames"]), 1.0)
        return {**figures, "loss": loss, "count": float(sums["count"])}

    def details(self, sums: Sums) -> dict[str, Any]:
        del sums
        return {}

    def show_details(self, details: Mapping[str, Any]) -> str:
        del details
        return ""

    def draw_details(self, figure, details: Mapping[str, Any]) -> None:
        del figure, details

    def baseline(self, data: DataSet, source: Source, train: Source) -> Baseline:
        """The average Jaccard of points that are said to stay where they were, and to be seen."""
        del data, train
        scores = []
        for index in range(len(source)):
            sample = source.batch([index])
            queries, steps = sample["query_points"], sample["occluded"].shape[-1]
            said = standing_still(queries, steps)
            metrics = metrics_on(evaluated(queries, steps, "first"), sample["occluded"], sample["tracks"], *said)
            scores.append(float(metrics["average_jaccard"][0]))
        known = np.array(scores)[np.isfinite(scores)]
        error = known.std() / max(len(known), 1) ** 0.5
        return Baseline("static", float(known.mean()), float(error), len(known))

    def describe(self, figures: Figures) -> str:
        """AJ with its standard error over videos, <delta_avg>, occlusion accuracy, AJ after re-appearance."""
        return (
            f"AJ {figures['average_jaccard']:.4f} ± {figures['average_jaccard_error']:.4f} "
            f"(n = {figures['count']:.0f} videos), within {figures['average_pts_within_thresh']:.4f}, "
            f"occlusion {figures['occlusion_accuracy']:.4f}, after return {figures['jaccard_after_return']:.4f}"
        )

    def draw(self, figure, model: Model, source: Source) -> None:
        """The first videos, one a row: frames with the tracks said (discs; rings: hidden) and the truth (diamonds)."""
        from .picture import draw_tracks

        draw_tracks(figure, lambda batch: model(self.prepare(batch)["input"], batch["query_points"]), source)

    def reading(self, output: Any) -> dict[str, Any]:
        """What is said of every point in a frame."""
        tracks, visible = np.asarray(output.tracks), np.asarray(output.visible)
        return {"points": [[round(float(v), 2) for v in xy] for xy in tracks], "visible": visible.tolist()}

    def show(self, reading: Mapping[str, Any]) -> str:
        places = zip(reading["points"], reading["visible"], strict=True)
        return "  ".join(f"{x:.1f},{y:.1f}" if seen else f"({x:.1f},{y:.1f})" for (x, y), seen in places)

    def _value(self, found: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(loss, number of frames that it is a mean over)."""
        f32 = lambda x: x.astype(jnp.float32)  # noqa: E731
        after = evaluated(batch["query_points"], found.tracks.shape[2], "first", jnp)
        after = f32(after & batch["valid"][:, None, None])
        seen = after * (1 - f32(batch["occluded"]))
        height, width = batch["input"].shape[2:4]
        x, y = batch["tracks"][..., 0], batch["tracks"][..., 1]
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        away = jnp.sqrt(jnp.square(f32(found.tracks) - batch["tracks"]).sum(-1) + 1e-6)
        earlier = jnp.sqrt(jnp.square(f32(found.earlier) - batch["tracks"][..., None, :]).sum(-1) + 1e-6)
        near = jnp.where(earlier[..., 0] < REACH, seen, 0)
        huber = lambda name, distance: optax.losses.huber_loss(distance, delta=HUBER[name])  # noqa: E731
        binary = lambda logits, truth: optax.sigmoid_binary_cross_entropy(f32(logits), f32(truth))  # noqa: E731
        placed = jnp.where(inside, seen + HIDDEN * (after - seen), 0)
        parts = {
            "beneath": (_mean_heat_loss(f32(found.beneath), batch["tracks"]), placed),
            "heat": (heat_loss(f32(found.heat), batch["tracks"]), placed),
            "rough": (huber("rough", earlier[..., 0]), near),
            "refined": (huber("refined", earlier[..., 1:]).sum(-1), near),
            "place": (huber("place", away), near),
            "occluded": (binary(found.occluded, batch["occluded"]), after),
            "unsure": (binary(found.unsure, jax.lax.stop_gradient(away) > SURE), seen),
        }
        mean = lambda value, weight: (value * weight).sum() / jnp.maximum(weight.sum(), 1)  # noqa: E731
        return jnp.stack([WEIGHTS[name] * mean(*part) for name, part in parts.items()]).sum(), after.sum()


def _mean_heat_loss(heats: Float[Any, "b n t l h w"], tracks: Float[Any, "b n t 2"]) -> Float[Any, "b n t"]:
    """`heat_loss`, the mean over l."""
    maps = jnp.moveaxis(heats, 3, 0)
    return jnp.stack([heat_loss(heat, tracks) for heat in maps]).mean(0)


def heat_loss(heat: Float[Any, "b n t h w"], tracks: Float[Any, "b n t 2"]) -> Float[Any, "b n t"]:
    """Cross-entropy of softmax(heat) against the four cells about the true place, weighted as in bilinear sampling."""
    height, width = heat.shape[-2:]
    chances = jax.nn.log_softmax(heat.reshape(*heat.shape[:-2], -1)).reshape(heat.shape)
    cells = tracks / COARSE - 0.5
    hat = lambda centre, size: jnp.maximum(1 - jnp.abs(jnp.arange(size) - centre[..., None]), 0)  # noqa: E731
    x = hat(jnp.clip(cells[..., 0], 0, width - 1), width)
    y = hat(jnp.clip(cells[..., 1], 0, height - 1), height)
    return -jnp.einsum("bnthw,bnth,bntw->bnt", chances, y, x)


def _sums(found: Any, batch: Batch, loss: jax.Array, frames: jax.Array) -> Sums:
    queries, valid = batch["query_points"], batch["valid"]
    scored = (batch["occluded"], batch["tracks"], ~found.visible, found.tracks)
    metrics = metrics_on(evaluated(queries, found.tracks.shape[2], "first", jnp), *scored, jnp)
    again = metrics_on(returned(queries, batch["occluded"], xp=jnp), *scored, jnp)["average_jaccard"]
    sums: Sums = {"loss_sum": loss * frames, "frames": frames, "count": valid.sum(dtype=jnp.int32)}
    for name, each in ({name: metrics[name] for name in NAMES} | {"jaccard_after_return": again}).items():
        counts = valid & jnp.isfinite(each)
        sums[f"{name}_sum"] = jnp.where(counts, each, 0).sum()
        sums[f"{name}_squares"] = jnp.where(counts, each**2, 0).sum()
        sums[f"{name}_videos"] = counts.sum(dtype=jnp.int32)
    return sums
