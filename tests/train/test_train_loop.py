import dataclasses
import json
import logging
import sys
import types
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_toys
from flax import nnx
from train_toys import TASK, Endless, batch, config, curve, fit, parameters, rows, tiny, validation

from cssm.core.errors import CssmError, DataError, NonFiniteError, UsageError
from cssm.data import PathTracker, loader
from cssm.tasks import Classify
from cssm.train import TrainConfig, evaluate, load_model, memory, read_metrics, train
from cssm.train.step import StepBuilder
from cssm.train.watch import Watch


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run_dir, result, model, events) of a plain run, everything on."""
    run_dir, events = tmp_path_factory.mktemp("run"), []

    def note(event):
        events.append((event.kind, event.step, event.record, event.model() if event.kind == "eval" else None))

    options = {"steps": 30, "lr": 0.05, "logger": "jsonl+tensorboard", "log_every": 5, "eval_every": 10}
    result, model = fit(run_dir, options=options, callbacks=[note])
    return run_dir, result, model, events


def test_it_learns(run):
    _, result, _, _ = run
    losses = [record["loss"] for record in result.history]
    assert losses[-1] < losses[0] - 0.1 and result.best_score > 0.9
    assert result.best_score == max(record["accuracy"] for record in result.history)


def test_the_best_checkpoint_has_the_best_accuracy(run):
    run_dir, result, model, _ = run
    best = tiny(7)
    facts = load_model(run_dir, best, "best")
    figures = evaluate(best, TASK, validation())
    assert facts["step"] == result.best_step
    assert figures["accuracy"] == result.best_score
    last = tiny(7)
    load_model(run_dir, last, "last")
    assert all(np.array_equal(a, b) for a, b in zip(parameters(last).values(), parameters(model).values(), strict=True))


def test_evaluation_counts_every_row_and_uses_the_average(run):
    run_dir, result, model, _ = run
    images, labels = rows(range(10_000, 10_021))
    logits = np.asarray(model(jnp.asarray(images / np.float32(127.5) - 1)))
    accuracy = (logits.argmax(-1) == labels).mean()
    loss = -np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[np.arange(21), labels].mean()
    last = result.history[-1]
    assert last["accuracy"] == accuracy and last["count"] == 21
    assert last["loss"] == pytest.approx(loss, rel=1e-5)
    from cssm.train.checkpoint import CheckpointStore

    arrays, _ = CheckpointStore(run_dir / "checkpoints").restore("last")
    assert not np.array_equal(arrays["params/head/kernel"], arrays["ema/head/kernel"])
    np.testing.assert_array_equal(arrays["ema/head/kernel"], parameters(model)["head/kernel"])


def test_callbacks_are_told_in_order_and_given_the_model_of_that_moment(run):
    _, _, _, events = run
    kinds = [(kind, step) for kind, step, _, _ in events]
    assert kinds[0] == ("start", 0) and kinds[-1] == ("end", 30)
    assert [step for kind, step in kinds if kind == "log"] == [5, 10, 15, 20, 25, 30]
    assert [step for kind, step in kinds if kind == "eval"] == [10, 20, 30]
    assert {5, 10, 15, 20, 25, 30} <= {step for kind, step in kinds if kind == "checkpoint"}
    for kind, step, record, model in events:
        if kind == "eval":
            assert kinds.index(("log", step)) < kinds.index(("eval", step)) < kinds.index(("checkpoint", step))
            assert evaluate(model, TASK, validation())["accuracy"] == record["accuracy"]


def test_metrics_say_what_happened(run):
    run_dir, _, _, _ = run
    records = read_metrics(run_dir / "metrics.jsonl")
    training = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in training] == [5, 10, 15, 20, 25, 30]
    want = {"kind", "step", "loss", "accuracy", "count", "lr", "grad_norm", "skipped"}
    assert set(training[0]) == want | {"samples_per_second", "memory_mib", "seconds"}
    assert training[0]["lr"] == pytest.approx(0.05 * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (4 - 3) / 27))), rel=1e-4)
    assert all(record["samples_per_second"] > 0 and record["memory_mib"] > 50 for record in training)
    events = b"".join(path.read_bytes() for path in (run_dir / "tensorboard").iterdir())
    assert b"train/loss" in events and b"eval/accuracy" in events


def test_the_environment_is_written_down(run):
    facts = json.loads((run[0] / "environment.json").read_text())
    assert facts["packages"]["jax"] == jax.__version__ and facts["packages"]["numpy"] == np.__version__
    assert facts["python"] == sys.version.split()[0] and facts["command"] == sys.argv
    assert facts["devices"] == ["cpu:cpu"] and facts["earlier"] == []
    assert facts["git"] is None or len(facts["git"].removesuffix("+changes")) == 40


def test_epochs_and_the_real_loader(tmp_path):
    """2 epochs of 24 samples at batch 8; validation of 10 at batch 4, rewound for each evaluation."""
    data = PathTracker(frames=8, distractors=2)
    train_data = loader(data.source("train", size=24), batch_size=8, shuffle=True, repeat=True, threads=0)
    val_data = loader(data.source("val", size=10), batch_size=4, threads=0)

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.head = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x, *, key=None):
            return self.head(x.mean((1, 2, 3)))

    settings = TrainConfig(epochs=2, batch_size=8, logger="jsonl", log_every=1, progress=False)
    result = train(Net(nnx.Rngs(0)), TASK, train_data, val_data, settings, tmp_path)
    assert result.final_step == 6
    assert [(record["step"], record["count"]) for record in result.history] == [(3, 10), (6, 10)]
    assert evaluate(Net(nnx.Rngs(0)), TASK, val_data)["count"] == 10  # left where it stood
    endless = loader(data.source("val", size=10), batch_size=4, repeat=True, threads=0)
    with pytest.raises(UsageError, match="more than its 3 batches: use a loader with repeat=False"):
        evaluate(Net(nnx.Rngs(0)), TASK, endless)


def test_without_validation_there_is_no_best(tmp_path):
    result = train(tiny(), TASK, Endless(), None, config(ema=0.9), tmp_path)
    assert (result.best_score, result.best_step, result.history, result.final_step) == (None, None, (), 12)


def failing_steps(monkeypatch, error, fails):
    """Make the train step raise at call number `fails[rows of a micro-batch]`; returns the rows of every call."""
    original, calls = StepBuilder.train_step, []

    def train_step(self, *args, **kwargs):
        step = original(self, *args, **kwargs)

        def failing(state, data):
            micro = len(data["valid"]) // self.accumulate
            calls.append(micro)
            if calls.count(micro) == fails.get(micro):
                if calls.count(micro) > 1:
                    step(state, data)  # the state is donated all the same
                raise error
            return step(state, data)

        failing.lower, failing.trace = step.lower, step.trace
        return failing

    monkeypatch.setattr(StepBuilder, "train_step", train_step)
    return calls


FULL = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3 bytes.\nmore lines")
FLAT = {"batch_size": 16, "steps": 10, "ema": 0.9}


class NoDropout(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Linear(3, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, *, key=None):
        return self.head(nnx.relu(self.stem(x[:, :, :3].mean((1, 2)))))


@pytest.mark.parametrize("error", [FULL, MemoryError()], ids=["device", "host"])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_curve(tmp_path, monkeypatch, error, capsys):
    plain = {"model": NoDropout(nnx.Rngs(0)), "data": Endless(size=16), "options": FLAT}
    fit(tmp_path / "plain", **plain)
    calls = failing_steps(monkeypatch, error, {16: 6, 8: 2})
    result, _ = fit(tmp_path / "low", **plain | {"model": NoDropout(nnx.Rngs(0)), "data": Endless(size=16)})
    assert result.accumulate == 4 and result.final_step == 10
    assert calls == [16] * 6 + [8] * 2 + [4] * 5  # each time from the checkpoint at step 5
    printed = capsys.readouterr().err
    assert "out of memory: 2 micro-batches of 8 rows in place of 16, from step 5" in printed
    assert "out of memory: 4 micro-batches of 4 rows in place of 8, from step 5" in printed
    for got, want in zip(curve(tmp_path / "low"), curve(tmp_path / "plain"), strict=True):
        assert got.pop("kind") == want.pop("kind")
        assert got == pytest.approx(want, rel=2e-4, abs=1e-5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coupled(Classify):
    """Whose loss compares the rows of a batch, so it says."""

    couples_rows: ClassVar[bool] = True


def test_a_batch_whose_rows_are_compared_is_not_cut_on_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_toys, "TASK", Coupled(num_classes=2, normalization="symmetric"))
    options = {"batch_size": 16, "steps": 2}
    fit(tmp_path / "asked", data=Endless(size=16), options=options | {"accumulate": 2})
    assert "compares the rows of a batch: with --accumulate 2, those of each of 2 micro-batches of 8 rows alone" in (
        capsys.readouterr().err
    )
    monkeypatch.setattr(memory, "LARGEST_STEP", 1)  # every step is too large
    result, _ = fit(tmp_path / "whole", data=Endless(size=16), options=options)
    assert result.accumulate == 1
    failing_steps(monkeypatch, FULL, {16: 1})
    with pytest.raises(CssmError, match=r"16 rows at a time .*which the loss compares: give a smaller --batch-size"):
        fit(tmp_path / "low", data=Endless(size=16), options=options)


def test_nothing_is_left_to_halve(tmp_path, monkeypatch):
    failing_steps(monkeypatch, FULL, {16: 1, 8: 1, 4: 1})
    with pytest.raises(CssmError, match=r"out of memory with 4 rows at a time \(RESOURCE_EXHAUSTED.*bytes\.\)"):
        fit(tmp_path, data=Endless(size=16), options={"batch_size": 16})


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    failing_steps(monkeypatch, jax.errors.JaxRuntimeError("INTERNAL: no"), {8: 1})
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        fit(tmp_path)


def nan_from(first, last=10**9):
    def change(i, data):
        x = data["input"].astype(np.float32) / 127.5 - 1
        return data | {"input": x * np.nan if first <= i <= last else x}

    return Endless(change=change)


def test_nan_data_ends_the_run_at_the_fifth_step(tmp_path, caplog):
    with pytest.raises(
        NonFiniteError, match="step 8 is non-finite, the 5th in a row, none applied: the input contains NaN"
    ):
        fit(tmp_path, data=nan_from(4), options={"eval_every": 100, "checkpoint_every": 3})
    assert [record.message[:17] for record in caplog.records] == [
        f"step {n} skipped, {n - 3} i"[:17] for n in range(4, 8)
    ]
    fit(tmp_path / "short", data=nan_from(99), options={"eval_every": 100, "checkpoint_every": 3, "keep": 9})
    from cssm.train.checkpoint import CheckpointStore

    broken = CheckpointStore(tmp_path / "checkpoints").restore(6)[0]
    whole = CheckpointStore(tmp_path / "short" / "checkpoints").restore(3)[0]
    assert (broken["skipped"], broken["bad_in_row"], broken["step"]) == (3, 3, 6)
    for name in whole:
        if name.startswith(("params/", "opt/", "ema/")):
            np.testing.assert_array_equal(broken[name], whole[name])


def test_a_few_bad_batches_are_skipped_counted_and_logged(tmp_path, caplog):
    result, model = fit(tmp_path, data=nan_from(3, 6))
    assert result.skipped_steps == 4 and result.final_step == 12
    assert all(np.isfinite(value).all() for value in parameters(model).values())
    records = {record["step"]: record for record in curve(tmp_path) if record["kind"] == "train"}
    assert [records[step]["loss"] is None for step in range(1, 13)] == [3 <= step <= 6 for step in range(1, 13)]
    assert "step 6 skipped, 4 in a row: the input contains NaN or infinity" in caplog.text
    assert records[12]["skipped"] == 4 and records[7]["lr"] == records[3]["lr"]  # the schedule waits


def test_a_label_out_of_range_is_not_blamed_on_the_input(tmp_path):
    data = Endless(change=lambda i, data: data | {"label": data["label"] + 1})
    with pytest.raises(NonFiniteError, match=r"loss nan, .* check that the targets are in range"):
        fit(tmp_path, data=data)


def test_data_and_options_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(UsageError, match="a training batch has 8 rows and batch_size is 16: make them equal"):
        fit(tmp_path / "a", options={"batch_size": 16})
    no_valid = Endless(change=lambda i, data: {"input": data["input"], "label": data["label"]})
    with pytest.raises(DataError, match=r"keys \['input', 'label'\] and no 'valid': expected a bool"):
        fit(tmp_path / "b", data=no_valid)
    with pytest.raises(DataError, match=r"'label' has shape \(7,\): expected 8 rows"):
        fit(tmp_path / "c", data=Endless(change=lambda i, data: data | {"label": data["label"][:7]}))
    with pytest.raises(UsageError, match="good for one pass"):
        train(tiny(), TASK, Endless(), iter(validation()), config(), tmp_path / "d")
    with pytest.raises(DataError, match="evaluation data gave no batch"):
        train(tiny(), TASK, Endless(), [], config(ema=0.9), tmp_path / "e")
    with pytest.raises(UsageError, match="pip install 'cssm\\[wandb\\]'"):
        sys.modules["wandb"] = None  # as if it were not installed
        try:
            fit(tmp_path / "f", options={"logger": "jsonl+wandb"})
        finally:
            del sys.modules["wandb"]


def test_an_error_of_the_data_reaches_the_caller(tmp_path):
    def change(i, data):
        if i == 3:
            raise DataError("shard_0003.tfrecord, record 17: truncated")
        return data

    with pytest.raises(DataError, match="record 17"):
        fit(tmp_path, data=Endless(change=change))


def test_names_and_other_things_no_device_holds_are_left_out(tmp_path):
    data = Endless(change=lambda i, data: data | {"file": np.array(["a.png"] * 8), "markers": np.ones((8, 2, 2))})
    assert fit(tmp_path, data=data)[0].final_step == 12


def test_wandb_is_given_the_records_and_resumes_one_run(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(
        log=calls.append, finish=lambda: calls.append("finish"), define_metric=lambda *a, **k: calls.append((a, k))
    )
    fake = types.SimpleNamespace(init=lambda **kwargs: calls.append(kwargs) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    options = {"eval_every": 6, "log_every": 6, "logger": "jsonl+wandb"}
    fit(tmp_path, options=options)
    assert calls[0]["resume"] == "allow" and calls[0]["dir"] == str(tmp_path)
    assert calls[1] == (("*",), {"step_metric": "step"}) and calls[-1] == "finish"
    assert [figures["step"] for figures in calls[2:-1]] == [6, 6, 12, 12]
    assert "train/loss" in calls[2] and "eval/accuracy" in calls[3]
    fit(tmp_path, options=options, resume=True)
    assert calls[7]["id"] == calls[0]["id"]


def test_metrics_are_not_waited_for():
    """A value is fetched only when two later steps have been dispatched."""
    fetched = []

    class Scalar:
        def __init__(self, step):
            self.step = step

        def __int__(self):
            fetched.append(self.step)
            return 0

    watch = Watch(TASK, lambda record: None, every=100, last=100, rows=1)
    for step in range(1, 6):
        watch.add(step, {"bad_in_row": Scalar(step)})
        assert fetched == list(range(1, step - 1))
    watch.look_back()
    assert fetched == [1, 2, 3, 4, 5]


def test_the_rate_is_of_dispatch_without_compilation_and_pauses(monkeypatch):
    """Steps of 8 rows at these seconds; a pause lies between 6 and 7."""
    now, records = [0.0], []
    monkeypatch.setattr("cssm.train.watch.time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    metrics = {"bad_in_row": 0, "weight": np.float32(8), "sums": {"loss_sum": 1.0, "correct_sum": 1, "count": 8}}
    metrics |= {name: np.float32(1) for name in ("loss", "lr", "grad_norm", "skipped")}
    watch = Watch(TASK, records.append, every=2, last=10, rows=8)
    for step, when in enumerate([50, 51, 52, 53, 55, 57, 99, 99.5, 100, 100.5], start=1):
        now[0] = float(when)
        watch.add(step, metrics)
        if step == 6:
            now[0] = 98.0
            watch.look_back()
            watch.pause()
    watch.look_back()
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10]
    assert [record["samples_per_second"] for record in records] == [8.0, 8.0, 4.0, 16.0, 16.0]


def test_the_bar_draws_on_a_terminal_only(monkeypatch, capsys):
    from cssm.train.progress import ProgressBar

    with ProgressBar(10) as bar:
        bar.show(5, 0.25, 1000.0, 300.0)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with ProgressBar(10, start=2) as bar:
        bar.show(5, 0.25, 1000.0, 300.0)
        bar.show(6, 0.25, None, 300.0)
    text = capsys.readouterr().err
    assert "6/10" in text and "loss 0.2500" in text and "300 MiB" in text


def test_lines_for_people_go_to_stderr(tmp_path, capsys):
    fit(tmp_path)
    out, err = capsys.readouterr()
    assert out == "" and "step 12/12: validation loss" in err
    assert logging.getLogger("cssm.train").handlers == []


def test_the_steps_compile_once_each(tmp_path):
    traces = []

    class Counting(NoDropout):
        def __call__(self, x, *, key=None):
            traces.append("train" if key is not None else "eval")
            return super().__call__(x, key=key)

    fit(tmp_path, model=Counting(nnx.Rngs(0)))
    assert sorted(traces) == ["eval", "train"]


def test_evaluate_alone_agrees_with_the_task():
    model = tiny()
    whole = batch(range(10_000, 10_021))
    figures = evaluate(model, TASK, validation())
    want = TASK.summarise(TASK.evaluate(model, TASK.prepare(whole)))
    assert figures == pytest.approx(want, rel=1e-6)
    half = evaluate(model, TASK, (b for b in validation()), compute_dtype="bfloat16")
    assert half["loss"] == pytest.approx(want["loss"], rel=2e-2) and half["loss"] != figures["loss"]


def test_a_batch_without_a_valid_row_is_logged_and_changes_nothing(tmp_path):
    """Bad files of a corrupt folder may fill a batch: no figure is 0 / 0, the run goes on."""

    def none_valid(i, data):
        return {**data, "valid": data["valid"] & (i != 3)}

    fit(tmp_path, data=Endless(change=none_valid), options={"steps": 6, "log_every": 1})
    records = [record for record in read_metrics(tmp_path / "metrics.jsonl") if record["kind"] == "train"]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert "accuracy" not in records[2] and "accuracy" in records[3]
    assert all(np.isfinite(record["loss"]) for record in records)
