"""A model, a task and data of one's own (toys.py) through the recipes, the training and the commands as they are."""

import dataclasses
import importlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import toys
from flax import nnx
from PIL import Image

from cssm.cli import main
from cssm.core.errors import DataError, ShapeError, UsageError
from cssm.recipes import RECIPES, execute, load_run, load_saved, prepare
from cssm.tasks import Classify
from cssm.train import loadable, read_metrics, saved_config
from tolerances import assert_close

CHILD = "import toys, sys; from cssm.cli import main; sys.exit(main(sys.argv[1:]))"


def errors(run_dir, kind="eval"):
    return [record["error"] for record in read_metrics(run_dir / "metrics.jsonl") if record["kind"] == kind]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "blobs"
    assert main(["train", "blobs", "--out", str(run_dir)]) == 0
    return run_dir


def test_a_run_of_ones_own_is_saved_and_read_back_equal(trained):
    run = load_saved(trained)
    assert run == RECIPES["blobs"]().fitted() and run.model == toys.AveragerConfig(channels=1, outputs=2)
    assert isinstance(run.task, toys.Regress) and run.fitted() == run


def test_the_lowest_error_is_the_best_and_is_what_is_reported(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert set(summary) == {"val_error", "mean_target", "train_seconds"}
    assert summary["val_error"] == pytest.approx(min(errors(trained)), abs=1e-4)
    best = json.loads((trained / "checkpoints" / "best.json").read_text())["step"]
    records = [r for r in read_metrics(trained / "metrics.jsonl") if r["kind"] == "eval"]
    assert best == min(records, key=lambda r: r["error"])["step"] != 12, "the last step must not be the best here"


def mean_target(split):
    """The error of the mean target of the training rows on a split."""
    train, rows = (toys.blobs().source(name) for name in ("train", split))
    known, asked = (source.batch(range(len(source)))["target"] for source in (train, rows))
    return float(np.square(asked - known.mean(0)).mean())


def test_the_baseline_is_of_the_split_that_is_reported(trained, capsys):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["mean_target"] == pytest.approx(mean_target("val"), abs=1e-4)
    for split in ("val", "test"):
        assert main(["eval", str(trained), "--split", split]) == 0
        record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
        assert record["mean_target"] == pytest.approx(mean_target(split), rel=1e-5)
        if split == "val":
            assert record["error"] == pytest.approx(min(errors(trained)), rel=1e-5)
    assert mean_target("val") != pytest.approx(mean_target("test"), rel=1e-3)


def test_every_picture_is_drawn(trained):
    for name in ("curves.png", "predictions.png"):
        assert Image.open(trained / name).size[0] > 300


def test_eval_prints_the_tasks_figures_on_the_test_split(trained, capsys):
    assert main(["eval", str(trained)]) == 0
    out = capsys.readouterr().out
    record = json.loads(out.strip().splitlines()[-1])
    run, model = load_run(trained)
    batch = run.source("test").batch(range(21))
    want = np.square(np.asarray(model(batch["input"] / np.float32(255))) - batch["target"]).mean()
    assert record["rows"] == 21 and record["error"] == pytest.approx(float(want), rel=1e-5)
    assert "mean target" in out and record["mean_target"] > 0


def test_stream_prints_the_tasks_reading_and_equals_the_parallel_pass(trained, tmp_path, capsys):
    np.save(tmp_path / "clip.npy", toys.Blobs().source("test").batch([1])["input"][0])
    assert main(["stream", str(trained), "--input", str(tmp_path / "clip.npy"), "--json", "--check"]) == 0
    *frames, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [frame["frame"] for frame in frames] == [0, 1, 2] and len(frames[0]["prediction"]) == 2
    assert last["largest_difference"] < 1e-6


@pytest.mark.slow
def test_kill_9_and_resume_is_the_same_curve(trained, tmp_path):
    """The child is killed between two checkpoints, then continued by the command that a user types."""
    run_dir, here = tmp_path / "killed", Path(__file__).parent
    argv = ["train", "blobs", "--out", str(run_dir), "--checkpoint-every", "2", "--data.delay", "0.2"]
    child = subprocess.Popen([sys.executable, "-c", CHILD, *argv], cwd=here)
    try:
        deadline = time.monotonic() + 120
        while not list(run_dir.glob("checkpoints/step_4*")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    assert (run_dir / "checkpoints" / "step_4").is_dir() and len(errors(run_dir, "train")) < 12
    assert main([*argv, "--resume"]) == 0
    assert errors(run_dir, "train") == errors(trained, "train") and errors(run_dir) == errors(trained)


def test_accumulation_weighs_micro_batches_by_the_tasks_own_weight(trained, tmp_path):
    assert main(["train", "blobs", "--out", str(tmp_path / "run"), "--accumulate", "4"]) == 0
    curves = (np.array(errors(folder, "train"), np.float32) for folder in (tmp_path / "run", trained))
    assert_close(*curves)


def test_augmentation_of_the_run_reaches_the_step_and_validation_stays_plain(trained, tmp_path):
    run = dataclasses.replace(
        toys.blobs(), augment=toys.Darken(), train=dataclasses.replace(toys.blobs().train, lr=1e-9)
    )
    plain = dataclasses.replace(run, augment=None)
    for name, each in (("dark", run), ("plain", plain)):
        execute(each, tmp_path / name)
    assert errors(tmp_path / "dark")[0] == pytest.approx(errors(tmp_path / "plain")[0], rel=1e-5)
    assert errors(tmp_path / "dark", "train")[0] != pytest.approx(errors(tmp_path / "plain", "train")[0], rel=1e-2)
    assert load_saved(tmp_path / "dark").augment == toys.Darken()


def test_parts_that_do_not_fit_are_told_before_anything_is_written(tmp_path):
    """The task's entries, the width of the model's output, the classes: each by its own error, from shapes alone."""
    demo, own = RECIPES["demo"]().fitted(), toys.blobs().fitted()
    wrong_head = dataclasses.replace(own, model=dataclasses.replace(own.model, outputs=3))
    for run, error, says in (
        (dataclasses.replace(own, data=demo.data), UsageError, "needs samples with 'target', PathTracker has input"),
        (wrong_head, TypeError, "shapes"),
        (dataclasses.replace(demo, task=Classify(num_classes=5)), UsageError, "has 2 classes, the task 5"),
        (dataclasses.replace(demo, model=dataclasses.replace(demo.model, num_classes=5)), ShapeError, r"\(1, 5\)"),
    ):
        with pytest.raises(error, match=says):
            prepare(run, tmp_path / "run", resume=False)
    assert not list(tmp_path.iterdir())


def test_a_class_that_was_not_declared_is_not_built(trained, monkeypatch):
    monkeypatch.delitem(saved_config.LOADABLE, "toys.Regress")
    with pytest.raises(DataError, match=r"'toys\.Regress' is no frozen dataclass of cssm, nor declared loadable"):
        load_saved(trained)
    with pytest.raises(UsageError, match="no frozen dataclass"):
        loadable(toys.Averager)


def test_training_rows_come_in_another_order(trained):
    """The first step is not on the first rows; validation is on all of its own, see below."""
    run = load_saved(trained)
    batch = {**run.source("train").batch(range(8)), "valid": np.ones(8, bool)}
    first = run.task.summarise(run.task.evaluate(run.build(), run.task.prepare(batch)))["error"]
    assert errors(trained, "train")[0] != pytest.approx(first, rel=1e-3)


def test_the_parameters_are_those_of_the_best_step(trained):
    run, model = load_run(trained)
    batch = run.source("val").batch(range(20))
    figures = run.task.summarise(run.task.evaluate(model, run.task.prepare({**batch, "valid": np.ones(20, bool)})))
    assert figures["error"] == pytest.approx(min(errors(trained)), rel=1e-5)
    assert len(jax.tree.leaves(nnx.state(model, nnx.Param))) == 2


def test_the_file_of_contributing_is_a_recipe(tmp_path, monkeypatch, capsys):
    """As pasted: it trains and evaluates; a saved run finds its classes again because the file declares them."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "class Bars" in b)
    (tmp_path / "bars.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    bars = importlib.import_module("bars")
    tiny = ["--steps", "2", "--batch-size", "8", "--train-size", "16", "--frames", "4", "--logger", "jsonl"]
    assert bars.main(["train", "bars", *tiny, "--out", str(tmp_path / "run")]) == 0
    assert bars.main(["eval", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["count"] == 300
