"""Training: the face `train`, its configuration, checkpoints, evaluation. Knows no model and no task by name."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from cssm.tasks.task import Task

from .checkpoint import CheckpointStore, load_model
from .cluster import cluster
from .config import Plan, TrainConfig
from .distributed import local_mesh
from .evaluate import evaluate, evaluate_sums
from .interrupt import Interrupted
from .join import join
from .lock import holding
from .log import read_metrics
from .optim import decay_mask, decays, optimizer
from .report import Callback, Event, TrainResult
from .saved_config import load_config, loadable, save_config
from .step import Augment
from .trainer import Trainer

__all__ = [
    "CheckpointStore",
    "Event",
    "Interrupted",
    "Plan",
    "TrainConfig",
    "TrainResult",
    "cluster",
    "decay_mask",
    "decays",
    "evaluate",
    "evaluate_sums",
    "holding",
    "join",
    "load_config",
    "load_model",
    "loadable",
    "local_mesh",
    "optimizer",
    "read_metrics",
    "save_config",
    "train",
]


def train(
    model: nnx.Module,
    task: Task,
    train_data: Iterable[Any],
    val_data: Iterable[Any] | None,
    config: TrainConfig,
    run_dir: str | os.PathLike,
    *,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    augment: Augment | None = None,
    resume_hint: str = "call train(..., resume=True)",
) -> TrainResult:
    """Train `model` in place: it ends with the last parameters, averaged if `config.ema` is on.

    | argument      | what it is                                                                                      |
    |---------------|-------------------------------------------------------------------------------------------------|
    | `model`       | what the task calls: for `Classify` `model(x, *, key=None) -> logits (b, p)`                    |
    | `train_data`  | iterable of batches of exactly `config.batch_size` rows, with the entries that the task reads   |
    |               | and `valid` (b,); iterators with get_state() and set_state(state) (JSON); len(), batches per    |
    |               | epoch, if epochs are asked for                                                                  |
    | `val_data`    | one pass of batches, gone through anew at each evaluation: a list, or a loader with             |
    |               | repeat=False. It picks the best checkpoint, so it must never be the test set                    |
    | `callbacks`   | each is called with an `Event`                                                                  |
    | `augment`     | (key, batch) -> batch on the device, in training only                                           |
    | `resume_hint` | how to go on, printed when a signal stops the run                                               |

    run_dir receives metrics.jsonl, tensorboard/, checkpoints/ and environment.json, and is this process's alone until
    the end (`holding`); afterwards `load_model(run_dir, model, "best")` fetches the best parameters. With `resume` the
    run continues exactly from its newest whole checkpoint. When memory runs out the micro-batch is halved (not below 4
    rows), the batch kept by accumulation, and the run goes on from its last checkpoint. Ctrl-C and SIGTERM finish the
    step, save, and exit with code 130.

    Several processes that `join` has brought together call this at the same time, each with its own rows: block i of n
    of every batch, training and validation alike (`loader(process=(i, n))`), and as many batches. The result is that of
    one process, and the same in all. Process 0 alone touches run_dir and calls the callbacks, which therefore must not
    do what needs the others, such as `evaluate` without `mesh=local_mesh()`. A signal to one stops all at the same
    step; the failure or death of one, memory running out included, ends all. Any number of processes resumes what any
    number began.

    Raises UsageError for data, options or a run_dir that do not fit, CheckpointError when resuming is impossible,
    NonFiniteError after 5 non-finite steps in a row, Interrupted (a SystemExit) on a signal.

    >>> import tempfile, numpy as np
    >>> from cssm.tasks import Classify
    >>> class Linear(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.head = nnx.Linear(3, 2, rngs=rngs)
    ...     def __call__(self, x, *, key=None):
    ...         return self.head(x.mean((1, 2)))
    >>> class Light:
    ...     def __init__(self): self.i = 0
    ...     def __iter__(self): return self
    ...     def get_state(self): return self.i
    ...     def set_state(self, i): self.i = i
    ...     def __next__(self):
    ...         self.i += 1
    ...         label = np.random.default_rng(self.i).integers(0, 2, 8).astype(np.int32)
    ...         image = np.broadcast_to(label[:, None, None, None] * np.uint8(255), (8, 2, 2, 3)).astype(np.uint8)
    ...         return {"input": image, "label": label, "valid": np.ones(8, bool)}
    >>> config = TrainConfig(steps=20, batch_size=8, lr=0.1, logger="jsonl")
    >>> result = train(Linear(nnx.Rngs(0)), Classify(), Light(), [next(Light())], config, tempfile.mkdtemp())
    >>> result.best_score, result.final_step
    (1.0, 20)
    """
    trainer = Trainer(model, task, train_data, val_data, config, Path(run_dir), tuple(callbacks), augment, resume_hint)
    return trainer.run(resume=resume)
