"""What a run meets outside a laboratory: no home, a terminal of ASCII, moved data, a run that stopped early."""

import io
import json
import os
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import jax
import numba
import pytest

from cssm.cli import main
from cssm.cli.common import enable_compilation_cache
from cssm.cli.train import _fresh, _last_step, _without
from cssm.core.errors import CheckpointError, UsageError
from cssm.recipes import figures_of, load_run
from cssm.recipes import run as run_module
from cssm.shared import compiled as compiled_module
from cssm.shared.compiled import compiled

SMALL = ["--embed-dim", "8", "--train-size", "32", "--val-size", "16", "--test-size", "16", "--batch-size", "8"]


def cssm(*words, folder, encoding="utf-8"):
    """The command in this process: its exit code, and what it wrote to streams of that encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    before = Path.cwd()
    os.chdir(folder)
    try:
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            code = main([str(word) for word in words])
    finally:
        os.chdir(before)
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    return SimpleNamespace(returncode=code, stdout=out, stderr=err)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps, without an evaluation but the last, under a terminal of ASCII."""
    folder = tmp_path_factory.mktemp("trained")
    done = cssm("train", "demo", *SMALL, "--steps", 2, "--out", "run", folder=folder, encoding="ascii")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_terminal_of_ascii_ends_nothing(trained):
    folder, done = trained
    assert "accuracy" in done.stdout and "Traceback" not in done.stderr
    evaluated = cssm("eval", "run", folder=folder, encoding="latin-1")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((folder / "run" / "eval-test.json").read_text())["split"] == "test"


def test_without_a_terminal_there_are_lines(trained):
    assert "step 2 of 2  loss " in trained[1].stderr and " left" in trained[1].stderr


def test_resuming_a_finished_run_says_so(trained):
    folder, _ = trained
    again = cssm("train", "demo", "--steps", 2, "--out", "run", "--resume", folder=folder)
    assert again.returncode == 0
    assert "run is finished, at step 2: nothing is trained; ask for more steps to go on" in again.stderr


def test_any_checkpoint_is_read(trained):
    folder, _ = trained
    best, last, first = (load_run(folder / "run", which)[1] for which in ("best", "last", "0"))
    kernel = lambda model: model.head.head.kernel[...].tolist()  # noqa: E731
    assert kernel(best) == kernel(last) != kernel(first)
    with pytest.raises(UsageError, match="checkpoint 'newest': choose best, last or the number of a step"):
        load_run(folder / "run", "newest")
    with pytest.raises(CheckpointError, match=r"no checkpoint 7 .*choose best, last or one of"):
        load_run(folder / "run", 7)


def test_a_run_that_stopped_before_its_first_evaluation_can_be_used(trained, tmp_path):
    folder, _ = trained
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "best.json").unlink()
    refused = cssm("eval", "run", folder=tmp_path)
    assert refused.returncode == 1 and "take the last one (--checkpoint last)" in refused.stderr
    assert cssm("eval", "run", "--checkpoint", "last", folder=tmp_path).returncode == 0


def test_without_a_home_compiled_programs_are_not_kept_and_a_line_says_so(monkeypatch, capsys):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    kept = jax.config.jax_compilation_cache_dir
    for home in ("/proc/nowhere", None):
        monkeypatch.setattr(Path, "home", nowhere) if home is None else monkeypatch.setenv("HOME", home)
        enable_compilation_cache()
        said = capsys.readouterr().err
        assert said.count("compiled programs are not kept") == 1 and "JAX_COMPILATION_CACHE_DIR" in said
    assert jax.config.jax_compilation_cache_dir == kept


def nowhere():
    raise RuntimeError("Could not determine home directory.")


def test_without_a_place_for_them_functions_are_compiled_anew_and_a_line_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    monkeypatch.setattr(compiled_module, "_said", [])
    double, triple = compiled(lambda x: 2 * x), compiled(fastmath=True)(lambda x: 3 * x)
    assert (double(2), triple(2)) == (4, 6)
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "no folder to keep compiled functions in"
    ]


def test_evaluation_halves_the_batch_when_memory_runs_out(trained, monkeypatch, capsys):
    folder, _ = trained
    run, model = load_run(folder / "run")
    expected, asked, evaluate = figures_of(run, model, "test"), [], run_module.evaluate_sums

    def scarce(model, task, batches, **options):
        batches = list(batches)
        asked.append(len(batches[0]["valid"]))
        if asked[-1] > 2:
            raise MemoryError
        return evaluate(model, task, batches, **options)

    monkeypatch.setattr(run_module, "evaluate_sums", scarce)
    assert figures_of(run, model, "test") == pytest.approx(expected)
    assert asked == [8, 4, 2]
    assert "memory ran out with 8 rows at a time: evaluating with 4" in capsys.readouterr().err


def test_two_runs_of_one_second_have_folders_of_their_own(tmp_path):
    paths = [_fresh(tmp_path / "runs" / "demo-20261126-120000") for _ in range(3)]
    assert [path.name[len("demo-20261126-120000") :] for path in paths] == ["", "_2", "_3"]


def test_the_newest_run_is_that_of_the_latest_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        os.utime(tmp_path / name / "checkpoints", (1000, 1000 + (name == "b")))
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    assert max((tmp_path / "a", tmp_path / "b"), key=_last_step).name == "a"


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path):
    assert cssm("train", "images", "--data-dir", "nowhere", folder=tmp_path).returncode == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--resume"], ["--resume", "true"], ["--resume=true"]])
def test_the_line_that_says_how_to_go_on_has_no_word_left_over(words):
    assert _without(["demo", *words, "--steps", "3"], "--resume") == ["demo", "--steps", "3"]


def test_data_that_have_moved_are_asked_for(tmp_path):
    made = tmp_path / "here"
    done = cssm("data", "make", "pathtracker", "--out", made, "--train", 16, "--val", 9, "--test", 9,
                "--frames", 4, folder=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    options = ["--steps", 1, "--batch-size", 8, "--embed-dim", 8, "--out", "run"]
    done = cssm("train", "pathtracker", "--data-dir", "here", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())
        and str(made) in (tmp_path / "run" / "config.json").read_text()
    )
    there = made.rename(tmp_path / "there")
    refused = cssm("eval", "run", folder=tmp_path)
    assert refused.returncode == 1 and f"the data of this run are not in {made}" in refused.stderr
    assert "--data-dir" in refused.stderr and "Traceback" not in refused.stderr
    assert cssm("eval", "run", "--data-dir", there, folder=tmp_path).returncode == 0
    again = ["train", "pathtracker", "--out", "run", "--resume", "--steps", 2, "--data-dir", there]
    resumed = cssm(*again, folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
