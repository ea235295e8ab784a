"""What a run is checked for before anything is written, and the model that it starts with."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.tasks.task import Equips
from cssm.train import cluster
from cssm.train.optim import optimizer
from cssm.train.progress import say
from cssm.train.state import split

from .warm_start import start_from

if TYPE_CHECKING:
    from .run import Run


def prepare(run: "Run", run_dir: Path, resume: bool) -> nnx.Module:
    """The model with its initial parameters. UsageError where the run cannot start, before anything is written."""
    if not resume and _has_run(run_dir):
        raise UsageError(f"{run_dir} holds a run already: continue it with --resume, or choose another --out")
    model = run.build(copies=4)
    if run.init_from is not None and not resume:
        loaded = start_from(model, run.init_from)
        if cluster().writes:
            say(f"{run.init_from}: {loaded}")
    run.task.check(run.data, model)
    if run.augment is not None or isinstance(run.task, Equips):
        check_loss(run, model)
    check_optimizer(run, model)
    for name in ("train", "val"):
        run.source(name)  # files that are not there, splits, sizes
    return model


def check_optimizer(run: "Run", model: nnx.Module) -> None:
    """Raises what the optimiser says of the names of the parameters (freeze, layer_decay)."""
    transform, _ = optimizer(run.train, 1)
    jax.eval_shape(transform.init, split(model)[0])


def check_loss(run: "Run", model: nnx.Module) -> None:
    """Traces the loss of a batch as it is augmented, in shapes alone: what does not fit is told before a step."""
    spec = run.data.sample_spec
    shapes = {name: jax.ShapeDtypeStruct((2, *s.shape), np.dtype(s.dtype)) for name, s in spec.items()}
    shapes["valid"] = jax.ShapeDtypeStruct((2,), np.bool_)

    def loss(batch: Any, key: jax.Array) -> jax.Array:
        batch = batch if run.augment is None else run.augment(key, batch)
        views = batch["input"].ndim != 1 + len(spec["input"].shape)
        if views and not getattr(run.task, "takes_views", False):
            raise UsageError(
                f"{type(run.augment).__name__} makes several views of an image, which {type(run.task).__name__} does "
                "not compare: choose another --augment, or a recipe of self-supervision"
            )
        return run.task.loss(model, run.task.prepare(batch), key).value

    jax.eval_shape(loss, shapes, jax.random.key(0))


def _has_run(run_dir: Path) -> bool:
    """A run that failed before its first step has nothing to lose."""
    steps = (path.name.removeprefix("step_") for path in (run_dir / "checkpoints").glob("step_*"))
    return any(step.isdigit() and int(step) for step in steps)
