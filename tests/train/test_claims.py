"""Numbers that users read first, each held by a test that the plausible mistake fails."""

import jax
import numpy as np
import pytest
from flax import nnx
from test_train_loop import FULL, NoDropout, failing_steps
from test_train_step import build, float_batch, plain
from train_toys import Endless, config, fit, tiny, validation

from cssm.tasks import Classify, Monitor
from cssm.train import TrainConfig, memory, optimizer, read_metrics, train, trainer
from tolerances import assert_close


def test_the_warm_up_of_the_average_counts_applied_steps_alone():
    """decay_t = (1 + t) / (10 + t) with t applied updates: skipped steps in between leave the average as it is."""

    def average(values):
        state, step, _ = build(
            plain(), optimizer=optimizer(TrainConfig(steps=99, warmup_steps=0, lr=0.1), 99), ema=0.999
        )
        for value in values:
            state, _ = step(state, float_batch(value))
        return jax.tree.map(np.asarray, state.ema)

    assert_close(average([None, np.nan, np.nan, None, None]), average([None, None, None]))


def test_a_resumed_run_remembers_that_memory_ran_out(tmp_path, monkeypatch):
    """Halved at step 6 and ended at 8, it goes on with micro-batches, not with the batch that did not fit."""
    options = {"batch_size": 16, "steps": 8, "ema": 0.9}
    calls = failing_steps(monkeypatch, FULL, {16: 6})
    result, _ = fit(tmp_path, model=NoDropout(nnx.Rngs(0)), data=Endless(size=16), options=options)
    assert result.accumulate == 2
    calls.clear()
    longer = {"model": NoDropout(nnx.Rngs(0)), "data": Endless(size=16), "options": options | {"steps": 10}}
    result, _ = fit(tmp_path, **longer, resume=True)
    assert calls == [8, 8] and result.accumulate == 2


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_the_best_step_is_the_one_the_task_calls_better(tmp_path, better):
    class Turned(Classify):  # the loss, or its negative, is monitored
        @property
        def monitor(self):
            return Monitor("loss", higher_is_better=better == "higher")

    task = Turned(num_classes=2, normalization="symmetric")
    result = train(tiny(), task, Endless(), validation(), config(steps=12), tmp_path)
    losses = {r["step"]: r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "eval"}
    pick = max if better == "higher" else min
    assert result.best_step == pick(losses, key=losses.get) and result.best_score == pick(losses.values())


def test_a_step_that_is_too_large_is_cut_before_it_runs(tmp_path, monkeypatch, capsys):
    """Where nobody says into how many micro-batches: to the same parameters; one that is asked for stays."""
    options = {"batch_size": 16, "steps": 4}
    whole, model = fit(tmp_path / "whole", model=NoDropout(nnx.Rngs(0)), data=Endless(size=16), options=options)
    assert whole.accumulate == 1 and "micro-batches" not in capsys.readouterr().err
    sizes = iter([2.5 * memory.LARGEST_STEP, 0.7 * memory.LARGEST_STEP])  # of this toy, nothing depends on the rows
    monkeypatch.setattr(trainer, "step_bytes", lambda *a: memory.step_bytes(*a) and int(next(sizes)))
    parts, smaller = fit(tmp_path / "parts", model=NoDropout(nnx.Rngs(0)), data=Endless(size=16), options=options)
    said = capsys.readouterr().err
    assert parts.accumulate == 4
    assert "a step of 16 rows needs 15 GB, above 6: 4 micro-batches of 4 rows" in said and "--accumulate 1" in said
    assert_close(*(jax.tree.map(np.asarray, nnx.state(m, nnx.Param)) for m in (model, smaller)), 1e-4)
    asked = fit(tmp_path / "asked", model=NoDropout(nnx.Rngs(0)), data=Endless(size=16),
                options=options | {"accumulate": 1})[0]  # fmt: skip
    assert asked.accumulate == 1
