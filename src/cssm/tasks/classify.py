"""Classification: softmax cross-entropy and accuracy over the valid rows of a batch."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cssm.core.errors import DataError, ShapeError, UsageError
from cssm.core.typing import Bool, Float, Int, Logits
from cssm.data.source import IMAGENET_MEAN, IMAGENET_STD

from .task import Batch, Model, Sums

Targets = Int[Any, "b"] | Float[Any, "b p"]


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
    >>> sums = task.evaluate(lambda x, key=None: jnp.array([[3.0, 0.0], [3.0, 0.0]]), batch)
    >>> task.summarise(sums)["accuracy"]
    0.5
    """

    num_classes: int = 2
    label_smoothing: float = 0.0
    normalization: Literal["imagenet", "unit", "symmetric", "none"] = "imagenet"

    def __post_init__(self):
        if self.num_classes < 2:
            raise UsageError(f"num_classes is {self.num_classes}: give at least 2")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing is {self.label_smoothing}: give 0 <= label_smoothing < 1")
        if self.normalization not in ("imagenet", "unit", "symmetric", "none"):
            raise UsageError(
                f"normalization {self.normalization!r} is unknown: choose imagenet, unit, symmetric or none"
            )

    @property
    def monitor(self) -> str:
        return "accuracy"

    def prepare(self, batch: Batch, dtype: Any = None) -> dict[str, Any]:
        """The batch with `input` normalised, float input left as it is; then cast to `dtype` if one is given."""
        x = self._normalise(jnp.asarray(batch["input"]))
        return {**batch, "input": x if dtype is None else x.astype(dtype)}

    def loss(self, model: Model, batch: Batch, key: jax.Array | None) -> tuple[Float[Any, ""], Sums]:
        """Mean smoothed cross-entropy over the valid rows, and the sums `loss_sum`, `correct_sum`, `count`."""
        logits = self._logits(model, batch, key)
        sums = _sums(logits, batch["label"], batch["valid"], self.label_smoothing)
        return sums["loss_sum"] / jnp.maximum(sums["count"], 1), sums

    def evaluate(self, model: Model, batch: Batch) -> Sums:
        """`loss_sum` (without smoothing), `correct_sum` and `count` over the valid rows."""
        return _sums(self._logits(model, batch, None), batch["label"], batch["valid"], 0.0)

    def summarise(self, sums: Sums) -> dict[str, float]:
        """`loss`, `accuracy` (0..1) and `count`. Raises DataError when no row was valid."""
        count = int(sums["count"])
        if count == 0:
            raise DataError("no valid row was counted: the data is empty or every row has valid=False")
        loss, accuracy = float(sums["loss_sum"]) / count, int(sums["correct_sum"]) / count
        return {"loss": loss, "accuracy": accuracy, "count": float(count)}

    def _logits(self, model: Model, batch: Batch, key: jax.Array | None) -> Logits:
        x = self.prepare(batch)["input"]
        logits = model(x, key=key)
        if logits.shape != (len(x), self.num_classes):
            want = (len(x), self.num_classes)
            raise ShapeError(
                f"the logits have shape {logits.shape}, expected {want}: set num_classes to match the model"
            )
        return logits.astype(jnp.float32)

    def _normalise(self, x: jax.Array) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return x
        x = x.astype(jnp.float32)
        if self.normalization == "imagenet":
            if x.shape[-1] != 3:
                raise ShapeError(f"imagenet normalization needs 3 channels, the input has {x.shape[-1]}: use unit")
            return (x / 255 - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)
        return {"unit": x / 255, "symmetric": x / 127.5 - 1, "none": x}[self.normalization]


def cross_entropy(logits: Logits, labels: Targets, smoothing: float = 0.0) -> Float[Any, "b"]:
    """Per-row softmax cross-entropy; NaN where an integer label is outside 0..p-1."""
    classes = logits.shape[-1]
    targets = labels if labels.ndim == 2 else jax.nn.one_hot(labels, classes)
    smooth = (1 - smoothing) * targets + smoothing / classes
    loss = -jnp.sum(smooth * jax.nn.log_softmax(logits), axis=-1)
    if labels.ndim == 2:
        return loss
    return jnp.where((labels >= 0) & (labels < classes), loss, jnp.nan)


def _sums(logits: Logits, labels: Targets, valid: Bool[Any, "b"], smoothing: float) -> Sums:
    labels = jnp.asarray(labels)
    hard = labels if labels.ndim == 1 else labels.argmax(-1)
    loss = jnp.where(valid, cross_entropy(logits, labels, smoothing), 0.0)
    correct = valid & (logits.argmax(-1) == hard)
    return {"loss_sum": loss.sum(), "correct_sum": correct.sum(dtype=jnp.int32), "count": valid.sum(dtype=jnp.int32)}
