"""What a task is: how a batch becomes a loss, how batches add up to figures, and what is printed and drawn of them.

Everything that a run counts, monitors, compares with and shows is decided here; training, recipes and the command
line know no task by name.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.data import DataSet, Source
from cssm.data.baselines import Baseline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batch = Mapping[str, Any]
Sums = dict[str, Any]  # arrays of any shape that add: two batches' sums added are the sums of both
Figures = dict[str, float]
Model = Callable[..., Any]


class Monitor(NamedTuple):
    """The figure that picks the best checkpoint."""

    name: str
    higher_is_better: bool = True
    chance: float | None = None
    """What guessing reaches; None where that means nothing."""

    def improves(self, score: float, best: float | None) -> bool:
        """Whether `score` is better than `best`; the first one is.

        >>> Monitor("error", higher_is_better=False).improves(0.1, 0.2)
        True
        """
        return best is None or (score > best if self.higher_is_better else score < best)


class Loss(NamedTuple):
    """A training loss: its float32 `value`, a mean; the `weight` of that mean among those of other micro-batches (how
    much it is a mean over); and the `sums` of the batch, whose own weights are the task's affair.
    """

    value: jax.Array
    weight: jax.Array
    sums: Sums


@runtime_checkable
class Task(Protocol):
    """One file in `cssm.tasks` per task: a frozen dataclass with these members.

    `prepare`, `loss` and `evaluate` run inside jit; a batch has the entries `keys` and `valid` (b,) bool, False in rows
    that only fill it up. Micro-batches are joined by their weights, so that accumulation equals the full batch; a loss
    that couples the rows of a batch is accumulated as the weighted mean of its micro-batches instead.
    """

    keys: ClassVar[tuple[str, ...]]
    """Entries of a batch that are read, beside `valid`."""

    @property
    def monitor(self) -> Monitor:
        """The figure of `summarise` that picks the best checkpoint."""
        ...

    @property
    def outputs(self) -> int:
        """Width of the output that the model needs."""
        ...

    def fitted(self, data: DataSet) -> "Task":
        """This task for that data set: what follows from it, such as the number of classes, filled in."""
        ...

    def check(self, data: DataSet, model: Model) -> None:
        """UsageError or ShapeError unless data, task and model fit together; nothing is computed (`check_parts`)."""
        ...

    def prepare(self, batch: Batch, dtype: Any = None) -> dict[str, Any]:
        """Raw inputs on the device as the model takes them, cast to the compute dtype if given. Called once a batch."""
        ...

    def loss(self, model: Model, batch: Batch, key: jax.Array | None) -> Loss:
        """The training loss of a prepared batch."""
        ...

    def evaluate(self, model: Model, batch: Batch) -> Sums:
        """The sums of a prepared batch, the model called without a key."""
        ...

    def summarise(self, sums: Sums) -> Figures:
        """The sums of any number of batches as figures. Raises DataError when nothing was counted."""
        ...

    def details(self, sums: Sums) -> dict[str, Any]:
        """What the sums hold beside the figures, as JSON; {} for nothing."""
        ...

    def show_details(self, details: Mapping[str, Any]) -> str:
        """Details that are not empty, in lines for people."""
        ...

    def draw_details(self, figure: "Figure", details: Mapping[str, Any]) -> None:
        """Draw details that are not empty onto an empty figure, whose size it sets."""
        ...

    def baseline(self, data: DataSet, source: Source, train: Source) -> Baseline | None:
        """What the monitored figure reaches on `source` by the data set's known shortcut; None where none is known."""
        ...

    def describe(self, figures: Figures) -> str:
        """The figures in a line for people, with the uncertainty of the monitored one."""
        ...

    def draw(self, figure: "Figure", model: Model, source: Source) -> None:
        """Draw what the model says of the first samples of a source onto an empty figure, whose size it sets."""
        ...

    def reading(self, output: Any) -> dict[str, Any]:
        """The model's output for one clip so far, (outputs,), as JSON: what `cssm stream` prints of a frame."""
        ...

    def show(self, reading: Mapping[str, Any]) -> str:
        """A reading in a line for people."""
        ...


@runtime_checkable
class Equips(Protocol):
    """What a task is too that trains parameters of its own beside the model's, such as projections of features."""

    def equip(self, model: Any, rngs: nnx.Rngs) -> Any:
        """The model with them: attributes, under names that it does not have."""
        ...


def check_parts(task: Task, data: DataSet, model: Model) -> None:
    """UsageError naming the first entry that the task reads and the data set's samples lack; then the loss of a batch
    is traced, in shapes alone, so that what does not fit is told before a step.
    """
    for key in task.keys:
        if key not in data.sample_spec:
            raise UsageError(
                f"{type(task).__name__} needs samples with {key!r}, {type(data).__name__} has "
                f"{', '.join(data.sample_spec)}: choose another data set or task"
            )
    specs = {key: data.sample_spec[key] for key in task.keys}
    shapes = {key: jax.ShapeDtypeStruct((1, *spec.shape), np.dtype(spec.dtype)) for key, spec in specs.items()}
    shapes["valid"] = jax.ShapeDtypeStruct((1,), np.bool_)
    jax.eval_shape(lambda batch: task.loss(model, task.prepare(batch), None).value, shapes)
