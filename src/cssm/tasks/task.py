"""What a task is: how a batch becomes a loss, and how batches add up to a score."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax

Batch = Mapping[str, Any]
Sums = dict[str, Any]  # additive scalars, among them "count": adding two batches' sums gives the sums of both
Model = Callable[..., Any]


@runtime_checkable
class Task(Protocol):
    """One file in `cssm.tasks` per task; a frozen dataclass with these members. All but `summarise` run inside jit.

    `loss` is a mean over the valid rows, so that gradient accumulation (means weighted by `count`) is exact; a loss
    that couples the rows of a batch is accumulated as the mean of its micro-batches instead.
    """

    @property
    def monitor(self) -> str:
        """The key of `summarise` that picks the best checkpoint; higher is better."""
        ...

    def prepare(self, batch: Batch, dtype: Any = None) -> dict[str, Any]:
        """Normalise raw inputs on the device and cast them to the compute dtype; a second time changes nothing."""
        ...

    def loss(self, model: Model, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, Sums]:
        """The training loss (a float32 scalar) and the batch's sums."""
        ...

    def evaluate(self, model: Model, batch: Batch) -> Sums:
        """The sums of one evaluation batch, `model` called without a key."""
        ...

    def summarise(self, sums: Sums) -> dict[str, float]:
        """The sums of any number of batches as figures to print. Raises DataError when nothing was counted."""
        ...
