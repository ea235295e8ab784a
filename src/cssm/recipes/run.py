"""A run is a value: what is trained, on what, for how long. `execute` carries it out and writes what it found."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from cssm.core.errors import DataError, UsageError
from cssm.core.files import replacing
from cssm.data import DataSet, Source, loader, moved
from cssm.data.augment import Augment
from cssm.data.baselines import Baseline
from cssm.models import ModelConfig
from cssm.models.size import check_memory
from cssm.tasks import Task
from cssm.tasks.task import Equips, Figures, Sums
from cssm.train import (
    Callback,
    Event,
    TrainConfig,
    TrainResult,
    cluster,
    evaluate_sums,
    holding,
    load_config,
    load_model,
    read_metrics,
    save_config,
    train,
)
from cssm.train.memory import out_of_memory
from cssm.train.progress import say
from cssm.viz.curves import draw_curves
from cssm.viz.figure import figure

from .prepare import prepare
from .probe import NeighbourProbe
from .warm_start import config_for, located


@dataclass(frozen=True, kw_only=True)
class Run:
    """One full run. Model, task, data and augmentation are known by their protocols, never by their classes.

    Sizes count samples; None takes all that files hold. Splits never share a sample. Validation picks the best
    checkpoint; the test split is touched by `cssm eval` alone.
    """

    recipe: str
    """Name of the function that made it."""
    model: ModelConfig
    task: Task
    data: DataSet
    augment: Augment | None = None
    train: TrainConfig
    train_size: int | None = None
    """Training samples, an epoch; None: all that the files hold."""
    val_size: int | None = None
    """Validation samples."""
    test_size: int | None = None
    """Test samples, for `cssm eval`."""
    init_from: Path | None = None
    """What the model starts with: the folder of a run, a file or the name of a trained model of cssm (`cssm list
    pretrained`), or a safetensors file of timm's; None: drawn by the seed."""

    def __post_init__(self):
        if self.init_from is not None:
            object.__setattr__(self, "init_from", located(self.init_from))
        for name in ("train_size", "val_size", "test_size"):
            size = getattr(self, name)
            if size is not None and size < 9:
                raise UsageError(f"{name} is {size}: give at least 9 samples, or None for all that files hold")

    def source(self, split: str) -> Source:
        """Raises DataError where the run's files are no longer in their folder."""
        root = getattr(self.data, "root", None)
        if root is not None and not Path(root).is_dir():
            raise DataError(f"the data of this run are not in {root}: give the folder they are in now as --data-dir")
        size = {"train": self.train_size, "val": self.val_size, "test": self.test_size}[split]
        return self.data.source(split, size=size)

    def with_root(self, root: Path | None) -> "Run":
        """This run with its files in another folder, kept as an absolute path; itself without one.

        Raises UsageError where the data are generated.
        """
        if root is None:
            return self
        if not hasattr(self.data, "root"):
            raise UsageError(f"{type(self.data).__name__} is generated, not read from files: leave --data-dir out")
        return replace(self, data=moved(self.data, Path(root).absolute()))

    def fitted(self) -> "Run":
        """This run with what follows from its data filled in: classes, grid, channels, frames, absolute paths."""
        run = self.with_root(getattr(self.data, "root", None))
        task = run.task.fitted(run.data)
        model = run.model.fitted(run.data.sample_spec["input"].shape, task.outputs)
        if run.init_from is not None:
            model = config_for(model, run.init_from)
        augment = run.augment
        if augment is not None:
            augment = augment.fitted(run.data, task.outputs, getattr(task, "normalization", "imagenet"))
        return replace(run, task=task, model=model, augment=augment)

    def build(self, copies: int = 1) -> Any:
        """The model with its initial parameters. UsageError where there is no memory for that many copies of them."""
        check_memory(self.make, copies)
        return self.make(nnx.Rngs(self.train.seed))

    def make(self, rngs: nnx.Rngs) -> Any:
        """The model, with the heads of its own that the task trains beside it (`Equips`)."""
        model = self.model.make(rngs)
        return self.task.equip(model, rngs) if isinstance(self.task, Equips) else model


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run came to: the task's figures of the best checkpoint on the validation split, beside the baseline."""

    result: TrainResult
    monitor: str
    figures: dict[str, float]
    described: str
    baseline: Baseline | None
    parameters: int
    artifacts: dict[str, Path] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """The line of JSON at the end of a run."""
        beside = {} if self.baseline is None else {self.baseline.name: round(self.baseline.value, 4)}
        seconds = {"train_seconds": round(self.result.seconds, 1)}
        return {f"val_{self.monitor}": round(self.figures[self.monitor], 4)} | beside | seconds


def execute(
    run: Run, run_dir: Path, *, resume: bool = False, resume_hint: str = "", callbacks: Sequence[Callback] = ()
) -> Report:
    """Train, then report the best checkpoint beside the shortcut baseline; draws curves.png and predictions.png.

    The run is carried out, and saved, with what follows from its data filled in (`Run.fitted`).
    In a run of several processes each carries out its part, and process 0 alone draws, writes and has a baseline.
    Raises what `cssm.train.train` raises, and UsageError when the parts of the run do not fit together.
    """
    with holding(run_dir) if cluster().writes else nullcontext():
        return _execute(run if resume else run.fitted(), run_dir, resume, resume_hint, callbacks)


def _execute(run: Run, run_dir: Path, resume: bool, resume_hint: str, callbacks: Sequence[Callback]) -> Report:
    model = prepare(run, run_dir, resume)
    train_source, val_source = run.source("train"), run.source("val")
    processes = cluster()
    batches = partial(loader, batch_size=run.train.batch_size, process=(processes.index, processes.count))
    train_data = batches(train_source, seed=run.train.seed, shuffle=True, repeat=True)
    baseline = run.task.baseline(run.data, val_source, train_source) if processes.writes else None
    curves = _Curves(run, run_dir / "curves.png", baseline)
    # only when a resumed run has been restored, or a new one can start, is its configuration written
    save = lambda event: save_config(run_dir, run) if event.kind == "start" else None  # noqa: E731
    own = (NeighbourProbe(run, val_source, train_source),) if getattr(run.task, "neighbours", 0) else ()
    options = {"resume": resume, "callbacks": (save, curves, *own, *callbacks), "resume_hint": resume_hint}
    result = train(model, run.task, train_data, batches(val_source), run.train, run_dir, augment=run.augment, **options)
    load_model(run_dir, model, "best", together=True)
    figures = figures_of(run, model, "val")
    report = Report(
        result=result,
        monitor=run.task.monitor.name,
        figures=figures,
        described=run.task.describe(figures),
        baseline=baseline,
        parameters=sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param))),
    )
    if not processes.writes:
        return report
    with replacing(run_dir / "summary.json") as new:
        new.write_text(json.dumps(report.summary()) + "\n")
    predictions = draw_predictions(run, model, val_source, run_dir / "predictions.png")
    return replace(report, artifacts={"curves": curves.draw(run_dir), "predictions": predictions})


def draw_predictions(run: Run, model: nnx.Module, source: Source, path: Path) -> Path:
    """The task's picture of what the model says of the first samples of a source, as a PNG."""
    with figure(path) as empty:
        run.task.draw(empty, compiled(model), source)
    return path


def compiled(model: nnx.Module) -> Callable[..., Any]:
    """The model's call, compiled for each shape it meets."""
    graph, params = nnx.split(model)
    return partial(jax.jit(lambda params, *args, **options: nnx.merge(graph, params)(*args, **options)), params)


def baseline_of(run: Run, split: str) -> Baseline | None:
    """What the shortcut of the run's data set reaches on a split, by its task."""
    return run.task.baseline(run.data, run.source(split), run.source("train"))


def load_saved(run_dir: Path) -> Run:
    """The run that a folder describes. Raises DataError when it describes none."""
    run = load_config(run_dir)
    if not isinstance(run, Run):
        raise UsageError(f"{run_dir}/config.json describes no run: give the folder that `cssm train` wrote")
    return run


def load_run(
    run_dir: str | os.PathLike, checkpoint: int | str = "best", data_dir: str | os.PathLike | None = None
) -> tuple[Run, Any]:
    """The run of a folder, and its model with the parameters of a checkpoint: "best", "last" or a step.

    data_dir: where the run's files are, if they have moved. Raises DataError when the folder holds no run,
    CheckpointError when no whole checkpoint fits, UsageError for a checkpoint that is no name or number.
    """
    which = int(checkpoint) if str(checkpoint).isdecimal() else checkpoint
    if which not in ("best", "last") and not isinstance(which, int):
        raise UsageError(f"checkpoint {checkpoint!r}: choose best, last or the number of a step")
    run = load_saved(Path(run_dir)).with_root(None if data_dir is None else Path(data_dir))
    model = run.build()
    load_model(run_dir, model, which)
    return run, model


def figures_of(run: Run, model: nnx.Module, split: str, batch_size: int | None = None) -> Figures:
    """The task's figures on a split: `summarise` of `sums_of`."""
    return run.task.summarise(sums_of(run, model, split, batch_size))


def sums_of(run: Run, model: nnx.Module, split: str, batch_size: int | None = None) -> Sums:
    """The task's sums over a split, in batches of the run's size; halved, with a line, whenever memory runs out."""
    source, process = run.source(split), (cluster().index, cluster().count)
    least = jax.device_count()
    rows = min(batch_size or run.train.batch_size, -(-len(source) // least) * least)
    while True:
        batches = loader(source, batch_size=rows, process=process)
        try:
            return evaluate_sums(model, run.task, batches, compute_dtype=run.train.compute_dtype)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not out_of_memory(error) or rows // 2 < least or cluster().count > 1:
                raise
        rows //= 2
        say(f"memory ran out with {2 * rows} rows at a time: evaluating with {rows}")


class _Curves:
    """Draws curves.png at every evaluation, so that a running or killed run can be looked at."""

    def __init__(self, run: Run, path: Path, baseline: Baseline | None):
        self.monitor, self.path, self.baseline = run.task.monitor, path, baseline
        mixer = getattr(run.model, "mixer", None) or type(run.model).__name__
        self.title = f"{run.recipe}: {mixer} on {type(run.data).__name__}"

    def __call__(self, event: Event) -> None:
        if event.kind == "eval":
            self.draw(event.run_dir)

    def draw(self, run_dir: Path) -> Path:
        records = read_metrics(run_dir / "metrics.jsonl")
        draw_curves(records, self.path, monitor=self.monitor, baseline=self.baseline, title=self.title)
        return self.path
