"""A run is a value: what is trained, on what, for how long. `execute` carries it out and writes what it found."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.data import Source, loader
from cssm.data.baselines import Baseline, markers_only
from cssm.models import SimpleCSSMConfig
from cssm.tasks import Classify
from cssm.train import Event, TrainConfig, TrainResult, evaluate, load_config, load_model, save_config, train
from cssm.viz.curves import draw_curves
from cssm.viz.predictions import draw_predictions

BASELINE_SAMPLES = 3000


@dataclass(frozen=True, kw_only=True)
class Run:
    """One full run. `data` is a configuration of data set `dataset` (or of its files) with `.source(split, size=)`.

    Sizes count samples; None takes all that files hold. Generated splits never share a sample. Validation picks the
    best checkpoint; the test split is touched by `cssm eval` alone.
    """

    recipe: str
    dataset: str
    data: Any
    model: SimpleCSSMConfig
    task: Classify
    train: TrainConfig
    train_size: int | None = 100_000
    val_size: int | None = 2_000
    test_size: int | None = 4_000

    def source(self, split: str) -> Source:
        size = {"train": self.train_size, "val": self.val_size, "test": self.test_size}[split]
        return self.data.source(split, size=size)

    def build(self) -> nnx.Module:
        """The model with its initial parameters."""
        return self.model.make(nnx.Rngs(self.train.seed))


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run came to. Accuracies are on the validation split; markers_only is None for data without markers."""

    result: TrainResult
    val_accuracy: float
    markers_only: Baseline | None
    parameters: int
    artifacts: dict[str, Path] = field(default_factory=dict)

    def summary(self) -> dict[str, float | int | None]:
        return {
            "val_accuracy": round(self.val_accuracy, 4),
            "markers_only": None if self.markers_only is None else round(self.markers_only.accuracy, 4),
            "train_seconds": round(self.result.seconds, 1),
        }


def prepare(run: Run, run_dir: Path, resume: bool) -> nnx.Module:
    """The model with its initial parameters. UsageError where the run cannot start, before anything is written."""
    classes = {run.data.num_classes, run.model.num_classes, run.task.num_classes}
    if len(classes) > 1:
        raise UsageError(f"data, model and task disagree on the number of classes: {sorted(classes)}")
    if not resume and _has_run(run_dir):
        raise UsageError(f"{run_dir} holds a run already: continue it with --resume, or choose another --out")
    model = run.build()
    example = run.source("train").batch([0])
    batch = {"input": example["input"], "label": example["label"], "valid": np.ones(1, bool)}
    jax.eval_shape(lambda: run.task.loss(model, batch, None)[0])  # shapes that do not fit are told before a step
    return model


def _has_run(run_dir: Path) -> bool:
    """A run that failed before its first step has nothing to lose."""
    steps = (path.name.removeprefix("step_") for path in (run_dir / "checkpoints").glob("step_*"))
    return any(step.isdigit() and int(step) for step in steps)


def execute(run: Run, run_dir: Path, *, resume: bool = False, resume_hint: str = "") -> Report:
    """Train, then report the best checkpoint beside the markers-only baseline; draws curves.png and predictions.png.

    Raises what `cssm.train.train` raises, and UsageError when the parts of the run do not fit together.
    """
    model = prepare(run, run_dir, resume)
    train_source, val_source = run.source("train"), run.source("val")
    batch = run.train.batch_size
    train_data = loader(train_source, batch_size=batch, seed=run.train.seed, shuffle=True, repeat=True)
    baseline = baseline_of(val_source)
    curves = _Curves(run_dir / "curves.png", baseline)
    # only when a resumed run has been restored, or a new one can start, is its configuration written
    save = lambda event: save_config(run_dir, run) if event.kind == "start" else None  # noqa: E731
    options = {"resume": resume, "callbacks": (save, curves), "resume_hint": resume_hint}
    result = train(model, run.task, train_data, loader(val_source, batch_size=batch), run.train, run_dir, **options)
    load_model(run_dir, model, "best")
    figures = evaluate(model, run.task, loader(val_source, batch_size=batch), compute_dtype=run.train.compute_dtype)
    parameters = sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    artifacts = {"curves": curves.draw(run_dir), "predictions": run_dir / "predictions.png"}
    draw_predictions(model, run.task, val_source, artifacts["predictions"])
    report = Report(
        result=result,
        val_accuracy=figures["accuracy"],
        markers_only=baseline,
        parameters=parameters,
        artifacts=artifacts,
    )
    (run_dir / "summary.json").write_text(json.dumps(report.summary()) + "\n")
    return report


def baseline_of(source: Source) -> Baseline | None:
    """Markers-only accuracy on a third of the same split, at most 1,000 samples; None for data without markers."""
    if "markers" not in source.batch([0]):
        return None
    return markers_only(source, min(BASELINE_SAMPLES, len(source)))


def load_saved(run_dir: Path) -> Run:
    """The run that a folder describes. Raises DataError when it describes none."""
    run = load_config(run_dir)
    if not isinstance(run, Run):
        raise UsageError(f"{run_dir}/config.json describes no run: give the folder that `cssm train` wrote")
    return run


def load_run(run_dir: Path) -> tuple[Run, nnx.Module]:
    """The run of a folder, and its model with the best parameters.

    Raises DataError when the folder holds no run, CheckpointError when no whole checkpoint fits.
    """
    run = load_saved(run_dir)
    model = run.build()
    load_model(run_dir, model, "best")
    return run, model


class _Curves:
    """Draws curves.png at every evaluation, so that a running or killed run can be looked at."""

    def __init__(self, path: Path, baseline: Baseline | None):
        self.path, self.baseline = path, baseline

    def __call__(self, event: Event) -> None:
        if event.kind == "eval":
            self.draw(event.run_dir)

    def draw(self, run_dir: Path) -> Path:
        accuracy = None if self.baseline is None else self.baseline.accuracy
        draw_curves(run_dir / "metrics.jsonl", self.path, markers_only=accuracy)
        return self.path
