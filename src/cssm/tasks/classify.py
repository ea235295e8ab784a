"""Classification: cross-entropy and accuracy over the valid rows of a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cssm.core.errors import DataError, ShapeError, UsageError
from cssm.core.typing import Bool, Float, Int, Logits
from cssm.data import DataSet, Source
from cssm.data.baselines import Baseline, shortcut
from cssm.data.normalise import NORMALIZATIONS, normalise

from .picture import class_table, draw_classes, draw_confusion
from .task import Batch, Figures, Loss, Model, Monitor, Sums, check_parts

Targets = Int[Any, "b"] | Float[Any, "b p"]
CRITERIA = ("softmax", "sigmoid")
DETAILED = 100  # classes, at most, whose confusions are counted


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Images or videos -> classes.

    A batch is `input` uint8 or float (b, [t,] h, w, c), `label` int32 (b,) or float (b, p) for mixed labels, and
    `valid` bool (b,): rows that are False pad the batch and count for nothing. uint8 is normalised inside jit:

    | normalization | value the model sees                              |
    |---------------|---------------------------------------------------|
    | `imagenet`    | (x/255 - ImageNet mean) / ImageNet std; needs c=3 |
    | `unit`        | x/255                                             |
    | `symmetric`   | x/127.5 - 1                                       |
    | `none`        | x                                                 |

    Float input is taken as already normalised. Label smoothing applies to the training loss only. An integer label
    outside 0..num_classes-1 makes the loss NaN, which training refuses. Raises UsageError for options out of range,
    ShapeError when the logits do not have `num_classes` columns.

    >>> import jax.numpy as jnp
    >>> task = Classify(num_classes=2, normalization="unit")
    >>> batch = {"input": jnp.zeros((2, 4, 4, 3), jnp.uint8), "label": jnp.array([0, 1]), "valid": jnp.ones(2, bool)}
    >>> sums = task.evaluate(lambda x, key=None: jnp.array([[3.0, 0.0], [3.0, 0.0]]), task.prepare(batch))
    >>> task.summarise(sums)["accuracy"]
    0.5
    """

    keys: ClassVar[tuple[str, ...]] = ("input", "label")

    num_classes: int = 2
    """Classes; those of the data set in a run."""
    class_names: tuple[str, ...] = ()
    """Their names, for pictures and streams; those of the data set in a run."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, in training."""
    criterion: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: cross-entropy of one class of all. sigmoid: binary cross-entropy of every class on its own, the mean
    over classes, in which all classes of a mixed image count in full (DeiT III); of the training loss alone."""
    normalization: Literal["imagenet", "unit", "symmetric", "none"] = "imagenet"
    """How uint8 pixels become numbers."""

    def __post_init__(self):
        if self.num_classes < 2:
            raise UsageError(f"num_classes is {self.num_classes}: give at least 2")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing is {self.label_smoothing}: give 0 <= label_smoothing < 1")
        if self.criterion not in CRITERIA:
            raise UsageError(f"criterion {self.criterion!r} is unknown: choose {' or '.join(CRITERIA)}")
        if self.normalization not in NORMALIZATIONS:
            raise UsageError(f"normalization {self.normalization!r} is unknown: choose {', '.join(NORMALIZATIONS)}")

    @property
    def monitor(self) -> Monitor:
        return Monitor("accuracy", chance=1 / self.num_classes)

    @property
    def outputs(self) -> int:
        return self.num_classes

    def fitted(self, data: DataSet) -> "Classify":
        if "label" not in data.sample_spec:
            raise UsageError(f"{type(data).__name__} has no classes to tell apart: choose another data set or task")
        if data.num_classes < 2:
            found = f"{type(data).__name__} has one class, {data.class_names[0]!r}"
            raise UsageError(f"{found}: there is nothing to tell apart, give it at least 2")
        return replace(self, num_classes=data.num_classes, class_names=tuple(data.class_names))

    def check(self, data: DataSet, model: Model) -> None:
        if data.num_classes != self.num_classes:
            raise UsageError(
                f"the data set has {data.num_classes} classes, the task {self.num_classes}: make them equal"
            )
        self.names  # noqa: B018
        channels = data.sample_spec["input"].shape[-1]
        if self.normalization == "imagenet" and channels != 3:
            raise UsageError(f"imagenet normalization needs 3 channels, the data set has {channels}: use unit")
        check_parts(self, data, model)

    def prepare(self, batch: Batch, dtype: Any = None) -> dict[str, Any]:
        """The batch with `input` normalised, float input left as it is; then cast to `dtype` if one is given."""
        x = normalise(batch["input"], self.normalization)
        return {**batch, "input": x if dtype is None else x.astype(dtype)}

    def loss(self, model: Model, batch: Batch, key: jax.Array | None) -> Loss:
        """Mean smoothed cross-entropy over the valid rows; its weight is their number."""
        criterion = cross_entropy if self.criterion == "softmax" else binary_cross_entropy
        logits = self._logits(model, batch, key)
        sums = _sums(logits, batch["label"], batch["valid"], partial(criterion, smoothing=self.label_smoothing))
        return Loss(sums["loss_sum"] / jnp.maximum(sums["count"], 1), sums["count"], sums)

    def evaluate(self, model: Model, batch: Batch) -> Sums:
        """`loss_sum` (without smoothing), `correct_sum` and `count` over the valid rows; `confusion` of few classes."""
        logits = self._logits(model, batch, None)
        sums = _sums(logits, batch["label"], batch["valid"], cross_entropy)
        if self.num_classes > DETAILED:
            return sums
        return sums | {"confusion": _confusion(logits, batch["label"], batch["valid"])}

    def summarise(self, sums: Sums) -> Figures:
        """`loss`, `accuracy` (0..1) and `count`. Raises DataError when no row was valid."""
        count = int(sums["count"])
        if count == 0:
            raise DataError("no valid row was counted: the data is empty or every row has valid=False")
        loss, accuracy = float(sums["loss_sum"]) / count, int(sums["correct_sum"]) / count
        return {"loss": loss, "accuracy": accuracy, "count": float(count)}

    def details(self, sums: Sums) -> dict[str, Any]:
        """{"classes": names, "confusion": counts (truth, answer)}; {} for more than 100 classes."""
        if "confusion" not in sums:
            return {}
        return {"classes": list(self.names), "confusion": np.asarray(sums["confusion"]).tolist()}

    def show_details(self, details: Mapping[str, Any]) -> str:
        """A table: of each class its samples, how many of them were found, how often the answer was right."""
        return class_table(details["classes"], np.asarray(details["confusion"]))

    def draw_details(self, figure, details: Mapping[str, Any]) -> None:
        """The confusion matrix, each row as shares of its class."""
        draw_confusion(figure, np.asarray(details["confusion"]), details["classes"])

    def baseline(self, data: DataSet, source: Source, train: Source) -> Baseline:
        """The accuracy of the data set's shortcut: the markers alone, or the most frequent class of `train`."""
        return shortcut(data, source, train)

    def describe(self, figures: Figures) -> str:
        """The accuracy with its binomial standard error."""
        accuracy, count = figures["accuracy"], figures["count"]
        error = (accuracy * (1 - accuracy) / count) ** 0.5
        return f"accuracy {accuracy:.4f} ± {error:.4f} (n = {count:.0f})"

    def draw(self, figure, model: Model, source: Source) -> None:
        """The stimuli, one a row, with the probabilities of the classes as bars."""
        draw_classes(figure, lambda batch: jax.nn.softmax(model(self.prepare(batch)["input"]), -1), source, self.names)

    def reading(self, output: Float[Any, "p"]) -> dict[str, Any]:
        """{"class": the likeliest one's name, "probabilities": [...]} of the logits."""
        chances = [round(float(p), 6) for p in jax.nn.softmax(jnp.asarray(output))]
        return {"class": self.names[int(np.argmax(output))], "probabilities": chances}

    def show(self, reading: Mapping[str, Any]) -> str:
        """A bar for each of the five likeliest classes."""
        chances = list(zip(reading["probabilities"], self.names, strict=True))
        shown = chances if len(chances) <= 5 else sorted(chances, reverse=True)[:5]
        return "  ".join(f"{name} {p:.3f} {'█' * round(20 * p):<20}" for p, name in shown)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each class, its number where it has none. Raises UsageError for another number of names."""
        if self.class_names and len(self.class_names) != self.num_classes:
            raise UsageError(f"{len(self.class_names)} class_names for {self.num_classes} classes: name each, or none")
        return self.class_names or tuple(f"class {i}" for i in range(self.num_classes))

    def _logits(self, model: Model, batch: Batch, key: jax.Array | None) -> Logits:
        x = batch["input"]
        logits = model(x, key=key)
        if logits.shape != (len(x), self.num_classes):
            want = (len(x), self.num_classes)
            raise ShapeError(
                f"the logits have shape {logits.shape}, expected {want}: set num_classes to match the model"
            )
        return logits.astype(jnp.float32)


def cross_entropy(logits: Logits, labels: Targets, smoothing: float = 0.0) -> Float[Any, "b"]:
    """Per-row softmax cross-entropy; NaN where an integer label is outside 0..p-1."""
    classes = logits.shape[-1]
    targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, classes)
    smooth = (1 - smoothing) * targets + smoothing / classes
    loss = -jnp.sum(smooth * jax.nn.log_softmax(logits), axis=-1)
    if labels.ndim == 2:
        return loss
    return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)


def binary_cross_entropy(logits: Logits, labels: Targets, smoothing: float = 0.0) -> Float[Any, "b"]:
    """Per-row binary cross-entropy, the mean over classes; classes that are there at all count in full.

    NaN where an integer label is outside 0..p-1.

    >>> round(float(binary_cross_entropy(jnp.zeros((1, 3)), jnp.array([[0.3, 0.7, 0.0]]))[0]), 4)  # log 2
    0.6931
    """
    classes = logits.shape[-1]
    targets = (labels if labels.ndim == 2 else jax.nn.one_hot(labels, classes)) > 0
    smooth = (1 - smoothing) * targets + smoothing / classes
    loss = optax.sigmoid_binary_cross_entropy(logits, smooth).mean(-1)
    if labels.ndim == 2:
        return loss
    return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)


def _sums(logits: Logits, labels: Targets, valid: Bool[Any, "b"], criterion: Callable[..., Any]) -> Sums:
    labels = jnp.asarray(labels)
    hard = labels if labels.ndim == 1 else labels.argmax(-1)
    loss = jnp.where(valid, criterion(logits, labels), 0.0)
    correct = valid & (logits.argmax(-1) == hard)
    return {"loss_sum": loss.sum(), "correct_sum": correct.sum(dtype=jnp.int32), "count": valid.sum(dtype=jnp.int32)}


def _confusion(logits: Logits, labels: Targets, valid: Bool[Any, "b"]) -> Int[Any, "p p"]:
    """Counts (truth, answer) of the valid rows; a label outside 0..p-1 counts nowhere."""
    labels, classes = jnp.asarray(labels), logits.shape[-1]
    hard = labels if labels.ndim == 1 else labels.argmax(-1)
    hard = jnp.where(valid & (hard >= 0), hard, classes)
    return jnp.zeros((classes, classes), jnp.int32).at[hard, logits.argmax(-1)].add(1, mode="drop")
