"""A run that is stopped and continued is the run that was not stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from train_toys import TASK, Endless, config, curve, fit, parameters, tiny, validation

from cssm.core.errors import CheckpointError, UsageError
from cssm.train import Interrupted, load_model, train
from cssm.train.log import read_metrics


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(run_dir, result, parameters) of the run nothing stops: 12 steps, evaluations at 4, 8, 12, saves at 5, 10."""
    run_dir = tmp_path_factory.mktemp("whole")
    result, model = fit(run_dir)
    return run_dir, result, parameters(model)


def assert_same_run(run_dir, result, model, whole):
    whole_dir, whole_result, whole_parameters = whole
    assert curve(run_dir) == curve(whole_dir)  # bit for bit
    for name, value in parameters(model).items():
        np.testing.assert_array_equal(value, whole_parameters[name], err_msg=name)
    assert (result.best_score, result.best_step) == (whole_result.best_score, whole_result.best_step)
    assert result.final_step == 12 and len(result.history) == 3
    best, want = tiny(1), tiny(1)
    load_model(run_dir, best)
    load_model(whole_dir, want)
    for name, value in parameters(want).items():
        np.testing.assert_array_equal(parameters(best)[name], value)


def at_step(step, act, kind="log"):
    """A callback that acts once, at the record of that step."""

    def callback(event):
        if event.kind == kind and event.step == step:
            act()

    return callback


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step, kind", [(5, "log"), (4, "eval"), (1, "log")])
def test_a_signal_saves_and_the_run_continues_exactly(tmp_path, whole, number, step, kind, capsys):
    before = signal.getsignal(number)
    kill = at_step(step, lambda: os.kill(os.getpid(), number), kind)
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, callbacks=[kill], resume_hint="run: cssm train --resume")
    assert stopped.value.code == 130 and isinstance(stopped.value, SystemExit)
    assert signal.getsignal(number) is before
    assert (
        f"step {stopped.value.step} is saved in {tmp_path}; to go on, run: cssm train --resume"
        in capsys.readouterr().err
    )
    assert (tmp_path / "checkpoints" / f"step_{stopped.value.step}").is_dir()
    assert step <= stopped.value.step <= step + 2
    result, model = fit(tmp_path, resume=True)
    assert_same_run(tmp_path, result, model, whole)


def test_a_stop_just_before_an_evaluation_does_not_lose_it(tmp_path, whole, monkeypatch):
    """The record of step 2 is read when step 4 has been dispatched: the stop comes before the evaluation at 4."""
    with pytest.raises(Interrupted) as stopped:
        fit(tmp_path, callbacks=[at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))])
    assert stopped.value.step == 4
    assert not [record for record in read_metrics(tmp_path / "metrics.jsonl") if record["kind"] == "eval"]
    result, model = fit(tmp_path, resume=True)
    assert_same_run(tmp_path, result, model, whole)


@pytest.mark.parametrize("pass_of", [1, 3])
def test_a_stop_during_an_evaluation_waits_for_one_batch_and_does_not_lose_it(tmp_path, whole, pass_of):
    """The first evaluation, and that of the last step; stopped twice, the second time when it is resumed."""
    given = []

    def passes():
        """The validation data with 40 batches behind it that hold no valid row; a signal with the first of them."""
        given.append(0)
        for batch in validation() + 40 * [batch_of_nothing()]:
            given[-1] += 1
            if given[-1] == 4 and len(given) in (pass_of, pass_of + 1):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch
            time.sleep(0.01)

    class Data:
        __iter__ = lambda self: passes()  # noqa: E731

    def run(resume):
        return train(tiny(), TASK, Endless(), Data(), config(ema=0.9), tmp_path, resume=resume)

    for resume in (False, True):
        with pytest.raises(Interrupted) as stopped:
            run(resume)
        assert stopped.value.step == 4 * pass_of and given[-1] < 20
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4 * pass_of + pass_of - 1
    result, model = fit(tmp_path, resume=True)
    assert_same_run(tmp_path, result, model, whole)


def batch_of_nothing():
    empty = validation()[0]
    return empty | {"valid": empty["valid"] & False}


def test_a_run_broken_by_an_error_continues_from_its_last_checkpoint(tmp_path, whole):
    def fail():
        raise RuntimeError("the plot could not be drawn")

    with pytest.raises(RuntimeError, match="plot"):
        fit(tmp_path, callbacks=[at_step(7, fail)])
    assert curve(tmp_path)[-1]["step"] == 7
    result, model = fit(tmp_path, resume=True)  # from step 5: the lines of 6 and 7 are written anew
    assert_same_run(tmp_path, result, model, whole)


def kill_child(run_dir, options, when):
    """Train in a child process and SIGKILL it as soon as `when(run_dir)` holds."""
    arguments = [str(run_dir), json.dumps(options), "0.15"]
    child = subprocess.Popen([sys.executable, str(Path(__file__).with_name("train_toys.py")), *arguments])
    try:
        deadline = time.time() + 120
        while not when(run_dir) and time.time() < deadline and child.poll() is None:
            time.sleep(0.01)
        assert child.poll() is None, "the child ended before it could be killed"
    finally:
        child.kill()
    assert child.wait() == -signal.SIGKILL


def test_kill_9_and_resume_is_the_same_curve(tmp_path, whole):
    def has_step_7(run_dir):
        path = run_dir / "metrics.jsonl"
        return path.exists() and any(record["step"] >= 7 for record in read_metrics(path))

    kill_child(tmp_path, {"ema": 0.9}, has_step_7)
    assert 7 <= max(record["step"] for record in curve(tmp_path)) < 12
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # as a kill in mid-write leaves it
    result, model = fit(tmp_path, resume=True)
    assert_same_run(tmp_path, result, model, whole)
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert len(environment["earlier"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.1])
def test_kill_9_in_the_middle_of_a_save(tmp_path, whole, after):
    """Every step is saved, so that the kill falls into a save; whatever it leaves, the run goes on exactly."""

    def saving(run_dir):
        if len(list((run_dir / "checkpoints").glob("step_*"))) > 1:
            time.sleep(after)
            return True
        return False

    kill_child(tmp_path, {"ema": 0.9, "checkpoint_every": 1, "keep": 2}, saving)
    result, model = fit(tmp_path, resume=True)
    assert_same_run(tmp_path, result, model, whole)


def flip_newest(run_dir, count=1):
    """Flip one byte in the data of the newest checkpoints; returns the steps."""
    folders = sorted((run_dir / "checkpoints").glob("step_*"), key=lambda path: -int(path.name[5:]))[:count]
    for folder in folders:
        victim = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    return [int(folder.name[5:]) for folder in folders]


def stop_at_10(run_dir):
    """The record of 9 is read before the save at 10."""
    with pytest.raises(Interrupted):
        fit(run_dir, callbacks=[at_step(9, lambda: os.kill(os.getpid(), signal.SIGINT))])


def test_a_flipped_byte_in_the_newest_checkpoint_falls_back_with_a_warning(tmp_path, whole, caplog):
    stop_at_10(tmp_path)
    assert flip_newest(tmp_path) == [10]
    result, model = fit(tmp_path, resume=True)
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1 and "step_10 is damaged" in warnings[0]
    assert_same_run(tmp_path, result, model, whole)


def test_all_damaged_is_an_error(tmp_path):
    stop_at_10(tmp_path)
    flip_newest(tmp_path, count=9)
    with pytest.raises(CheckpointError, match="are damaged; start the run anew"):
        fit(tmp_path, resume=True)


def test_a_finished_run_resumes_to_its_end(whole, tmp_path):
    run_dir, result, want = whole
    again, model = fit(run_dir, resume=True)
    assert again.final_step == 12 and again.history == result.history and again.best_score == result.best_score
    for name, value in parameters(model).items():
        np.testing.assert_array_equal(value, want[name])
    assert again.seconds >= result.history[-1]["seconds"]


def test_a_folder_is_never_overwritten_and_never_resumed_from_nothing(whole, tmp_path):
    with pytest.raises(UsageError, match="holds a run at step 12: resume it, or choose another folder"):
        fit(whole[0])
    with pytest.raises(CheckpointError, match=r"no usable checkpoint .* there is none"):
        fit(tmp_path, resume=True)


def test_a_start_that_failed_can_be_repeated(tmp_path, whole):
    """Only step 0 is on disk: there is nothing to lose, and nothing of it remains."""
    with pytest.raises(UsageError, match="make them equal"):
        fit(tmp_path, model=tiny(3), options={"batch_size": 16})
    with pytest.raises(RuntimeError, match="early"):
        fit(tmp_path, model=tiny(4), callbacks=[at_step(2, raise_early)])
    result, model = fit(tmp_path)
    assert_same_run(tmp_path, result, model, whole)


def raise_early():
    raise RuntimeError("early")


def test_another_model_is_refused_naming_the_first_leaf(whole):
    with pytest.raises(
        CheckpointError, match=r"params/head/kernel as float32\[8, 2\], the model needs float32\[5, 2\]"
    ):
        fit(whole[0], model=tiny(width=5), resume=True)
    with pytest.raises(CheckpointError, match=r"ema/head/kernel, which the model lacks"):
        fit(whole[0], options={"ema": None}, resume=True)
    with pytest.raises(CheckpointError, match=r"head/kernel as float32\[8, 2\], the model needs float32\[5, 2\]"):
        load_model(whole[0], tiny(width=5))


def test_a_changed_configuration_is_announced(tmp_path, caplog):
    with pytest.raises(Interrupted):
        fit(tmp_path, callbacks=[at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))])
    result, _ = fit(tmp_path, resume=True, options={"lr": 0.01, "steps": 14})
    assert "another configuration: steps 12 -> 14, lr 0.02 -> 0.01" in caplog.text
    assert result.final_step == 14


def test_the_configuration_of_the_toy_is_what_these_tests_think():
    plan = config(ema=0.9).plan(4)
    assert (plan.steps, plan.eval_every, plan.checkpoint_every) == (12, 4, 5)
