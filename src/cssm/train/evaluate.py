"""Evaluation: every row of a data set counts once, the last partial batch too."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from cssm.core.errors import DataError, UsageError
from cssm.tasks.task import Figures, Sums, Task

from .distributed import global_mesh, place, put, replicated
from .prefetch import Prefetch
from .state import Blueprint, split
from .step import StepBuilder

IN_FLIGHT = 4  # batches dispatched before the first result is fetched


def evaluate(
    model: nnx.Module,
    task: Task,
    data: Iterable[Mapping[str, Any]],
    *,
    compute_dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Figures:
    """`summarise` of `evaluate_sums`: the task's figures over one pass of `data`.

    `data` gives batches with the entries that the task reads and `valid` bool (b,), the tail padded with valid=False.
    A loader is left where it stood. The devices of `mesh` share each batch: by default those of all processes, each of
    which then calls this with its own rows of as many batches (`loader(process=...)`); `cssm.train.local_mesh()` makes
    it the affair of one. Raises DataError when there is no valid row.

    >>> import numpy as np
    >>> from cssm.tasks import Classify
    >>> class Brightness(nnx.Module):
    ...     def __call__(self, x, *, key=None):
    ...         return jnp.stack([0.5 - x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 0.5], axis=-1)
    >>> batch = {"input": np.array([0, 255, 9], np.uint8)[:, None, None, None], "label": np.array([0, 1, 1], np.int32)}
    >>> batch["valid"] = np.array([True, True, False])
    >>> figures = evaluate(Brightness(), Classify(normalization="unit"), [batch])
    >>> figures["accuracy"], figures["count"]
    (1.0, 2.0)
    """
    return task.summarise(evaluate_sums(model, task, data, compute_dtype=compute_dtype, mesh=mesh))


def evaluate_sums(
    model: nnx.Module,
    task: Task,
    data: Iterable[Mapping[str, Any]],
    *,
    compute_dtype: str = "float32",
    mesh: Mesh | None = None,
) -> Sums:
    """The task's sums over one pass of `data`, from which `Task.summarise` and `Task.details` follow; as `evaluate`."""
    mesh = mesh or global_mesh()
    builder = StepBuilder(task=task, blueprint=Blueprint.of(model), mesh=mesh, dtype=jnp.dtype(compute_dtype))
    params, rest = jax.tree.map(lambda value: put(value, replicated(mesh)), split(model))
    step = partial(builder.eval_step(), params, rest)
    sums = run_evaluation(step, Passes(data), partial(place, mesh=mesh))
    assert sums is not None  # nothing stops it
    return sums


def run_evaluation(
    step: Callable[[Any], dict[str, Any]],
    data: "Passes",
    place: Callable[[Any], Any],
    depth: int = 2,
    stopped: Callable[[], bool] = lambda: False,
) -> Sums | None:
    """`step(batch) -> sums` over one pass, added up in 64 bits: exact however many batches there are.

    None when `stopped`, which is asked after every batch, says so.
    """
    total: Sums = {}
    waiting: deque[dict[str, Any]] = deque()
    try:
        with Prefetch(iter(data), place, depth) as batches:
            for batch in batches:
                waiting.append(step(batch))
                if len(waiting) > IN_FLIGHT:
                    _add(total, waiting.popleft())
                if stopped():
                    return None
    finally:
        data.rewind()
    for sums in waiting:
        _add(total, sums)
    if not total:
        raise DataError("the evaluation data gave no batch: it is empty, or an iterator that cannot restart")
    return total


class Passes:
    """Data to go through once, or again and again: an iterator with get_state and set_state can be rewound."""

    def __init__(self, data: Iterable[Any]):
        self._data: Any = data
        self._state = self._data.get_state() if hasattr(data, "get_state") else None

    @property
    def repeatable(self) -> bool:
        return self._state is not None or not isinstance(self._data, Iterator)

    def rewind(self) -> None:
        """Put a loader back where it stood."""
        if self._state is not None:
            self._data.set_state(self._state)

    def __iter__(self) -> Iterator[Any]:
        """Raises UsageError when the data gives more than its length: a loader that repeats has no end."""
        length = len(self._data) if hasattr(self._data, "__len__") else None
        for count, batch in enumerate(self._data):
            if count == length:
                raise UsageError(
                    f"the evaluation data gives more than its {length} batches: use a loader with repeat=False"
                )
            yield batch


def _add(total: Sums, sums: Sums) -> None:
    for name, value in jax.device_get(sums).items():
        total[name] = total.get(name, 0) + np.asarray(value, np.float64 if value.dtype.kind == "f" else np.int64)
