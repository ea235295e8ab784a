"""LeJEPA: embeddings of frames or views that predict each other and are spread as a standard normal distribution.

    z = mean over blocks of MLP_block(mean over space of what the block gives),    (B, T, P)
    L = w_pred prediction_loss(z) + w_sig sigreg(z) + cross-entropy of a linear probe that no gradient passes

Source: Balestriero and LeCun 2025, LeJEPA; docs/math.md section 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import DataError, UsageError
from cssm.core.typing import Float
from cssm.data import DataSet, Source
from cssm.data.baselines import Baseline
from cssm.nn.parts.projection import Projection

from .classify import Classify
from .embedding_losses import (
    FORMS,
    MODES,
    WIDTH,
    characteristic_sums,
    effective_rank,
    from_normal,
    mean_deviation,
    prediction_loss,
    sigreg,
)
from .task import Batch, Figures, Loss, Model, Monitor, Sums


@dataclass(frozen=True, kw_only=True)
class LeJEPA:
    """Self-supervision: frames of a clip, or views of an image, predict each other; a linear probe watches.

    A batch is `input` (b, t, h, w, c), a clip or the global views of an image, `local` (b, v, h', w', c), smaller views
    where there are any, `label` and `valid` as for `Classify`. The views of images are made by `--augment views`; an
    image alone (b, h, w, c), as in validation, is one view. The probe is the model's own head on features that pass no
    gradient on: what a run leaves is a classifier too, which streams. The monitored figure is the probe's accuracy.
    """

    num_classes: int = 2
    """Classes that the probe tells apart."""
    class_names: tuple[str, ...] = ()
    """What they are called."""
    normalization: Literal["imagenet", "unit", "symmetric", "none"] = "imagenet"
    """How uint8 pixels become numbers."""
    embedding: int = 64
    """P, numbers of an embedding."""
    hidden: int = 512
    """Hidden channels of the projection of each block."""
    blocks: tuple[int, ...] = (-1,)
    """Blocks whose outputs are projected; embeddings are the mean over them. -1 is the last."""
    prediction: Literal["successive", "all", "to_mean"] = "to_mean"
    """Which embeddings predict each other: of successive frames, of all pairs, or each the mean of all frames or of all
    global views."""
    prediction_weight: float = 1.0
    """Of the prediction loss."""
    form: Literal["mean", "lejepa"] = "mean"
    """Of SIGReg: "lejepa" is about N times "mean" for N embeddings: their weights do not transfer."""
    interval: tuple[float, float] = (0.0, 3.0)
    """Of the integral of form "lejepa"."""
    sigreg_weight: float = 1.0
    """Of SIGReg, which spreads the embeddings as a standard normal distribution; 0 turns it off."""
    slices: int = 256
    """Random directions of SIGReg, new ones each step."""
    neighbours: int = 20
    """Of the k-NN probe at every validation, among the features of 2,000 training samples; 0 leaves it out."""
    still: bool = False
    """Whether inputs are images, whose frames are views; the data say so."""

    keys: ClassVar[tuple[str, ...]] = ("input", "label")
    takes_views: ClassVar[bool] = True
    """Of one image, which it compares."""
    couples_rows: ClassVar[bool] = True
    """The loss of a batch is not the mean of its rows'."""

    def __post_init__(self):
        self.probe  # noqa: B018
        for name in ("embedding", "hidden", "slices"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name, weight in (("prediction_weight", self.prediction_weight), ("sigreg_weight", self.sigreg_weight)):
            if not 0 <= weight < np.inf:
                raise UsageError(f"{name} is {weight}, expected 0 or more")
        if self.neighbours < 0:
            raise UsageError(f"neighbours is {self.neighbours}, expected 0 or more")
        if not self.blocks:
            raise UsageError("blocks is empty, expected at least one, such as -1")
        if self.prediction not in MODES:
            raise UsageError(f"prediction is {self.prediction!r}: use {', '.join(MODES)}")
        if self.form not in FORMS:
            raise UsageError(f"form is {self.form!r}: use {' or '.join(FORMS)}")
        if not -np.inf < self.interval[0] < self.interval[1] < np.inf:
            raise UsageError(f"interval is {self.interval}, expected low < high")
        if self.form == "mean" and self.interval != (0.0, 3.0):
            raise UsageError(f"interval {self.interval} does nothing with form 'mean': leave it out, or give 'lejepa'")
        if not self.sigreg_weight and self.slices != 256:
            raise UsageError(f"slices {self.slices} do nothing with sigreg_weight 0: leave them at 256")

    @property
    def probe(self) -> Classify:
        """The task of the probe."""
        return Classify(num_classes=self.num_classes, class_names=self.class_names, normalization=self.normalization)

    @property
    def monitor(self) -> Monitor:
        return self.probe.monitor

    @property
    def outputs(self) -> int:
        return self.num_classes

    def fitted(self, data: DataSet) -> "LeJEPA":
        fitted = self.probe.fitted(data)
        still = len(data.sample_spec["input"].shape) == 3
        return replace(self, num_classes=fitted.num_classes, class_names=fitted.class_names, still=still)

    def equip(self, model: Any, rngs: nnx.Rngs) -> Any:
        """The model with `projections`, one for each block."""
        channels = self._channels(model)
        model.projections = nnx.List([Projection(c, self.hidden, self.embedding, rngs=rngs) for c in channels])
        return model

    def check(self, data: DataSet, model: Model) -> None:
        """As `Classify`; the loss of images, which needs views, is traced where the augmentation is known."""
        self.probe.check(data, model)
        self._channels(model)
        frames = getattr(getattr(model, "head", None), "frames", "last")
        if self.still and frames != "last":
            raise UsageError(
                f"of images the last frame is embedded, and the model reads {frames!r}: give readout='last'"
            )

    def prepare(self, batch: Batch, dtype: Any = None) -> dict[str, Any]:
        """The batch with the pixels of all views normalised, then cast to `dtype` if one is given."""
        prepared = self.probe.prepare(batch, dtype)
        if "local" not in batch:
            return prepared
        return prepared | {"local": self.probe.prepare({"input": batch["local"]}, dtype)["input"]}

    def loss(self, model: Model, batch: Batch, key: jax.Array | None) -> Loss:
        """The loss of the module's docstring over the valid rows; its weight is their number.

        Raises:
          UsageError: images without views.
        """
        if batch["input"].ndim != 5:
            raise UsageError("LeJEPA compares views: give clips, or images with --augment views")
        directions, inner = (None, None) if key is None else jax.random.split(key)
        z, features = self._embedded(model, batch, inner)
        prediction, probe = self._predicted(z, batch), self._probed(model, features, batch)
        weights = self._weights(z, batch)
        options = {"form": self.form, "interval": self.interval, "weights": weights}
        spread = sigreg(z.reshape(-1, self.embedding), self._directions(directions), **options)
        probe_loss = probe["loss_sum"] / jnp.maximum(probe["count"], 1)
        value = self.prediction_weight * prediction + self.sigreg_weight * spread + probe_loss
        each = spread if self.form == "mean" else spread / jnp.maximum(weights.sum(), 1)
        sums = self._sums(z, batch, prediction, probe) | {"spread_sum": each * batch["valid"].sum()}
        return Loss(value, batch["valid"].sum(), jax.lax.stop_gradient(sums))

    def evaluate(self, model: Model, batch: Batch) -> Sums:
        """Sums of the probe, of both losses, and of the embeddings and their products."""
        z, features = self._embedded(model, batch, None)
        sums = self._sums(z, batch, self._predicted(z, batch), self._probed(model, features, batch))
        flat = z.reshape(-1, self.embedding).astype(jnp.float32)
        held = characteristic_sums(flat, self._directions(None), self._weights(z, batch), self._knots)
        return sums | {"characteristic": held}

    def summarise(self, sums: Sums) -> Figures:
        """The probe's `accuracy`, `probe_loss`, `prediction` where there are frames or views, `sigreg` without its
        factor N, the effective `rank` of the embeddings, 1 to P, their mean `deviation`, 0 where they have collapsed to
        a point, and `count`. Of an evaluation `sigreg`, `rank` and `deviation` are those of all embeddings together.
        Raises DataError when no row was valid."""
        rows = float(sums["rows"])
        if not rows:
            raise DataError("no valid row was counted: the data is empty or every row has valid=False")
        probe = self.probe.summarise({k: sums[k] for k in ("loss_sum", "correct_sum", "count")})
        figures = {"accuracy": probe["accuracy"], "probe_loss": probe["loss"]}
        if float(sums["prediction_rows"]):
            figures["prediction"] = float(sums["prediction_sum"]) / float(sums["prediction_rows"])
        moments = np.asarray(sums["z_sum"]), np.asarray(sums["z_products"]), float(sums["embeddings"])
        if "characteristic" in sums:
            phi = jnp.asarray(sums["characteristic"]) / float(sums["embeddings"])
            spread = float(from_normal(phi, self.form, self._knots))
        else:
            spread = float(sums["spread_sum"]) / rows
        varying = {"rank": effective_rank(*moments), "deviation": mean_deviation(*moments)}
        return figures | {"sigreg": spread} | varying | {"count": rows}

    def details(self, sums: Sums) -> dict[str, Any]:
        """Those of the probe."""
        return self.probe.details(sums)

    def show_details(self, details: Mapping[str, Any]) -> str:
        return self.probe.show_details(details)

    def draw_details(self, figure, details: Mapping[str, Any]) -> None:
        self.probe.draw_details(figure, details)

    def baseline(self, data: DataSet, source: Source, train: Source) -> Baseline:
        """That of the labels, which the probe's accuracy stands beside."""
        return self.probe.baseline(data, source, train)

    def describe(self, figures: Figures) -> str:
        """The probe's accuracy with its standard error, the embeddings' effective rank and deviation."""
        varying = f"effective rank {figures['rank']:.1f} of {self.embedding}, deviation {figures['deviation']:.2g}"
        return f"probe {self.probe.describe(figures)}, {varying}"

    def draw(self, figure, model: Model, source: Source) -> None:
        """What the probe says of the first samples."""
        self.probe.draw(figure, model, source)

    def reading(self, output: Float[Any, "p"]) -> dict[str, Any]:
        return self.probe.reading(output)

    def show(self, reading: Mapping[str, Any]) -> str:
        return self.probe.show(reading)

    def _channels(self, model: Any) -> list[int]:
        """Of what the blocks give."""
        stack = getattr(model, "stack", None)
        if stack is None:
            raise UsageError(f"{type(model).__name__} has no stack of blocks to project: choose another model")
        if outside := [i for i in self.blocks if not -len(stack.blocks) <= i < len(stack.blocks)]:
            raise UsageError(f"blocks holds {outside[0]}: the model has blocks 0 to {len(stack.blocks) - 1}")
        return [stack.blocks[i].channels for i in self.blocks]

    def _embedded(self, model: Any, batch: Batch, key: jax.Array | None) -> tuple[Any, Any]:
        """(embeddings (b, t, p) of frames, or of the views, global ones first; features that the probe reads, of each
        clip or of each global view)."""
        x = batch["input"]
        keys = (None, None) if key is None else jax.random.split(key)
        if not self.still:
            *outputs, last = model.intermediates(x, (*self.blocks, -1), key=keys[0])
            return self._projected(model, outputs), last[:, -1] if model.head.frames == "last" else last
        z, last = self._of_images(model, x if x.ndim == 5 else x[:, None], keys[0])
        if "local" not in batch:
            return z, last
        return jnp.concatenate([z, self._of_images(model, batch["local"], keys[1])[0]], 1), last

    def _of_images(self, model: Any, views: Float[Any, "b v h w c"], key: jax.Array | None) -> tuple[Any, Any]:
        """(embeddings (b, v, p), features (b v, h', w', c) of the last block), of a repeated image's last frame."""
        flat = views.reshape(-1, *views.shape[2:])
        outputs = model.intermediates(flat, (*self.blocks, -1), key=key)
        *outputs, last = [y[:, -1] if y.ndim == 5 else y for y in outputs]
        return self._projected(model, outputs).reshape(*views.shape[:2], -1), last

    def _projected(self, model: Any, outputs: list[Any]) -> Float[Any, "*axes p"]:
        """The mean over blocks of their projected means over space."""
        each = [project(y.mean((-3, -2))) for project, y in zip(model.projections, outputs, strict=True)]
        return sum(each[1:], each[0]) / len(each)

    @property
    def _knots(self) -> tuple[float, float]:
        """Between which points characteristic functions are compared."""
        return (-WIDTH, WIDTH) if self.form == "mean" else self.interval

    def _weights(self, z: Float[Any, "b t p"], batch: Batch) -> Float[Any, "n"]:
        """Of all embeddings: 0 in rows that fill the batch up."""
        return jnp.repeat(batch["valid"].astype(jnp.float32), z.shape[1])

    def _directions(self, key: jax.Array | None) -> Float[Any, "s p"]:
        """Unit vectors; without a key always the same."""
        drawn = jax.random.normal(jax.random.key(0) if key is None else key, (self.slices, self.embedding))
        return drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)

    def _predicted(self, z: Float[Any, "b t p"], batch: Batch) -> Any:
        """The prediction loss, 0 for single views."""
        if z.shape[1] == 1:
            return jnp.zeros(())
        centre = batch["input"].shape[1] if self.still and self.prediction == "to_mean" else None
        return prediction_loss(z, self.prediction, centre=centre, weights=batch["valid"].astype(jnp.float32))

    def _probed(self, model: Any, features: Any, batch: Batch) -> Sums:
        """The sums of the probe, on features that no gradient passes; those of views, each with its image's label."""
        probe, views = self.probe, len(features) // len(batch["valid"])
        rows = {name: jnp.repeat(batch[name], views, axis=0) for name in ("label", "valid")}
        logits = lambda x, key=None: model.head(x)  # noqa: E731
        return probe.evaluate(logits, {"input": jax.lax.stop_gradient(features), **rows})

    def _sums(self, z, batch: Batch, prediction, probe: Sums) -> Sums:
        rows = batch["valid"].sum().astype(jnp.float32)
        flat = z.reshape(-1, self.embedding).astype(jnp.float32)
        flat = jnp.where(jnp.repeat(batch["valid"], z.shape[1])[:, None], flat, 0)
        predicted = rows if z.shape[1] > 1 else jnp.zeros(())
        return probe | {
            "rows": rows, "prediction_rows": predicted, "prediction_sum": prediction * predicted,
            "z_sum": flat.sum(0), "z_products": flat.T @ flat,
            "embeddings": rows * z.shape[1],
        }  # fmt: skip
