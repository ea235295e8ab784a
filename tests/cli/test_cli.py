"""The command line from end to end on a tiny run, and its errors: one line, the right exit code, nothing lost."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from cssm.cli import COMMANDS, main
from cssm.data import PathTracker

TINY = ["--steps", "6", "--batch-size", "8", "--train-size", "64", "--val-size", "12", "--embed-dim", "4"]
TINY += ["--eval-every", "3", "--seq-len", "8", "--logger", "jsonl"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "demo", *TINY, "--out", str(run_dir)]) == 0
    return run_dir


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.npz"
    np.savez(path, video=PathTracker(frames=8, distractors=0).source("test", size=4)[1]["input"])
    return path


def fails(capsys, argv, code, *says):
    """The command prints exactly one line on stderr that holds all of `says`, and returns the code."""
    assert main([str(a) for a in argv]) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("cssm: error: "), lines
    for text in says:
        assert text in lines[0], lines[0]


def test_train_writes_a_run_folder_and_one_line_of_json(trained, capsys, tmp_path):
    names = {p.name for p in trained.iterdir()}
    expected = {"config.json", "environment.json", "metrics.jsonl", "curves.png", "predictions.png", "summary.json"}
    assert expected <= names and (trained / "checkpoints").is_dir()
    assert main(["train", "demo", *TINY, "--out", str(tmp_path / "again")]) == 0
    last = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert set(last) == {"val_accuracy", "markers_only", "train_seconds"}
    assert last["val_accuracy"] == json.loads((trained / "summary.json").read_text())["val_accuracy"]


def test_a_finished_run_is_not_overwritten(trained, capsys):
    fails(capsys, ["train", "demo", *TINY, "--out", trained], 2, "holds a run already", "--resume")


def test_eval_counts_every_test_sample(trained, capsys):
    assert main(["eval", str(trained), "--batch-size", "300"]) == 0
    record = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert record["count"] == 4000 and 0.3 < record["markers_only"] < 0.7


def test_stream_equals_the_parallel_pass(trained, clip, capsys):
    assert main(["stream", str(trained), "--input", str(clip), "--check"]) == 0
    out = capsys.readouterr().out
    assert float(out.strip().splitlines()[-1].split()[-1]) < 1e-5 and out.count("frame ") == 8
    assert main(["stream", str(trained), "--input", str(clip), "--check", "--dt", "2"]) == 0
    assert float(capsys.readouterr().out.split()[-1]) < 1e-5
    assert main(["stream", str(trained), "--input", str(clip), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["frame"] for line in lines] == list(range(8))


def test_inspect_reports_and_draws(trained, capsys, tmp_path):
    assert main(["inspect", str(trained), "--output", str(tmp_path / "gains.png")]) == 0
    assert "spectral radius" in capsys.readouterr().out and (tmp_path / "gains.png").stat().st_size > 1000


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("no_gate", "simple", "pathtracker", "demo", "decay_scan", "scaling"))


@pytest.mark.parametrize("command", [[], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_given(command, capsys):
    try:
        assert main(command) == 0
    except SystemExit as stop:  # tyro's own help
        assert stop.code == 0
    out = capsys.readouterr().out
    assert "usage" in out and "(default: None)" not in out and "(default: )" not in out


def test_help_answers_within_a_second():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "cssm.cli", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0


def test_import_is_lazy():
    code = "import time; t = time.perf_counter(); import cssm; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.3


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trian"], ["unknown command 'trian'", "did you mean 'train'"]),
        (["train", "dmo"], ["unknown recipe 'dmo'", "did you mean 'demo'"]),
        (["train", "demo", "--cssm", "no_gat"], ["unknown mixer 'no_gat'", "did you mean 'no_gate'"]),
        (["train", "demo", "--arch", "simpel"], ["unknown model 'simpel'", "did you mean 'simple'"]),
        (["train", "demo", "--cssm", "transformer", "--kernel-size", "3"], ["'transformer'", "kernel_size"]),
        (["train", "demo", "--mixer-options", "gain=3"], ["'no_gate'", "gain"]),
        (["train", "demo", "--mixer-options", "gain"], ["name=value"]),
        (["train", "demo", "--pathfinder-difficulty", "9"], ["--pathfinder-difficulty does not apply to PathTracker"]),
        (["train", "pathfinder", "--distractors", "9"], ["--distractors does not apply to Pathfinder"]),
        (["train", "demo", "--image-size", "64"], ["--image-size does not apply to PathTracker"]),
        (["train", "demo", "--dataset", "pathtraker"], ["did you mean 'pathtracker'"]),
        (["train", "demo", "--seq-len", "0"], ["frames 0", "choose 2..326"]),
        (["train", "demo", "--steps", "5", "--epochs", "2"], ["--steps or --epochs"]),
        (["train", "demo", "--steps", "3000", "--epochs", "2"], ["--steps or --epochs"]),
        (["train", "demo", "--val-size", "0"], ["val_size is 0", "at least 9"]),
        (["train", "demo", "--skip-corrupt"], ["--skip-corrupt does not apply to PathTracker"]),
        (["train", "demo", "--embed-dim", "5", "--pos-embed", "mrope"], ["5 is odd"]),
        (["train", "demo", "--lrr", "3"], ["has no option --lrr", "did you mean --lr?", "--help-all"]),
        (["train", "demo", "--lr", "x"], ["--lr x: expected FLOAT"]),
        (["train", "demo", "--lr"], ["--lr: expected FLOAT"]),
        (["train", "demo", "--steps", "3", "4"], ["--steps 3 4: expected INT|None"]),
        (["train", "demo", "--progress", "maybe"], ["--progress maybe: expected true or false"]),
        (["train", "demo", "--compute-dtype", "f16"], ["{float32,bfloat16}"]),
        (["train", "demo", "--num-classes", "3"], ["--num-classes", "leave it out"]),
        (["train", "demo", "--task.num-classes", "3"], ["does not hold", "the data says 2"]),
        (["train", "demo", "--model.seq-len", "5"], ["--model.seq-len 5 does not hold", "the data says 8"]),
        (["train", "demo", "--no-lr"], ["has no option --no-lr"]),
        (["train", "demo", "8"], ["'8' belongs to no option"]),
        (["train", "demo", "--augment", "flipshift"], ["did you mean 'flip_shift'"]),
        (["train", "demo", "--augment", "flip_shift", "--flip", "2"], ["flip 2.0 is out of range"]),
        (["train", "demo", "--dataset", "imagenette"], ["imagenette is read from files", "--data-dir"]),
        (["train", "images"], ["read from files", "--data-dir"]),
        (["train", "demo", "--join-timeout", "3"], ["--join-timeout", "--distributed"]),
        (["train", "--lr", "3"], ["name a recipe first"]),
        (["train", "pathfinder", "--dataset", "pathfinder", "--difficulty", "abc"], ["--difficulty abc: expected INT"]),
        (["train", "demo", "--data-dir", ".", "--data.difficulty", "abc"], ["--data.difficulty abc: expected INT"]),
        (["train", "demo", "--flip", "0.3"], ["--flip does nothing", "add --augment flip_shift"]),
        (["train", "--dataset", "imagenet", "--data-dir", "."], ["'imagenet' has no recipe of its own", "imagenette"]),
        (["train", "demo", "--recipe", "pathtracker"], ["--recipe is pathtracker", "says demo"]),
        (["eval"], ["Missing from cssm eval: PATH", "cssm eval --help"]),
        (["eval", "a", "b"], ["Unrecognized options: b"]),
        (["eval", "a", "--batchsize", "3"], ["--batchsize", "Perhaps you meant: --batch-size"]),
        (["eval", "a", "--split", "train"], ["invalid choice 'train' for argument '--split'"]),
        (["stream", "a"], ["--input PATH"]),
        (["data", "check", "pathtracker", "--frames", "x"], ["--frames", "'x'"]),
        (["data", "clip", "pathtracker", "--output", "c.npz", "--index", "-1"], ["--index is -1"]),
        (["data", "check", "pathtracker", "--samples", "3"], ["--samples is 3"]),
        (["data", "preview", "pathtracker", "--output", "p.foo"], [".png"]),
        (["data", "mak"], ["did you mean 'make'"]),
        (["data", "make", "--out", "x"], ["name a data set"]),
        (["bench"], ["--op NAME", "--all"]),
        (["bench", "--op", "spectrl"], ["did you mean 'spectral'"]),
        (["bench", "--sweep", "scalin"], ["did you mean 'scaling'"]),
        (["bench", "--op", "spectral", "--all"], ["or --all"]),
        (["list", "mixer"], ["did you mean 'mixers'"]),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(capsys, argv, 2, *says)
    assert not list(tmp_path.rglob("*")), "a mistake leaves nothing behind"


def test_resume_without_a_run_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails(capsys, ["train", "demo", "--resume"], 2, "no run of 'demo'", "--out")


def test_wrong_frame_size_is_named_and_can_be_allowed(trained, tmp_path, capsys):
    path = tmp_path / "large.npy"
    np.save(path, np.zeros((3, 40, 24, 3), np.uint8))
    fails(capsys, ["stream", trained, "--input", path], 2, "40x24", "32x32", "--any-size")
    assert main(["stream", str(trained), "--input", str(path), "--any-size", "--check"]) == 0


@pytest.mark.parametrize(
    ("video", "says"),
    [
        (np.full((2, 32, 32, 3), np.nan, np.float32), "NaN"),
        (np.zeros((0, 32, 32, 3), np.uint8), "zero frames"),
        (np.zeros((2, 32, 3), np.uint8), "(T, H, W, 3)"),
        (np.zeros((2, 32, 32, 3), np.int64), "int64"),
        (np.array([{"a": 1}], object), "not a readable"),
    ],
)
def test_bad_clips_are_named(trained, tmp_path, video, says, capsys):
    path = tmp_path / "bad.npy"
    np.save(path, video)
    fails(capsys, ["stream", trained, "--input", path], 1, "bad.npy", says)


def test_missing_truncated_and_ambiguous_clips(trained, clip, tmp_path, capsys):
    fails(capsys, ["stream", trained, "--input", tmp_path / "none.npz"], 1, "none.npz", "give an")
    clip.write_bytes(clip.read_bytes()[:-200])
    fails(capsys, ["stream", trained, "--input", clip], 1, "clip.npz", "not a readable")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    fails(capsys, ["stream", trained, "--input", tmp_path / "two.npz"], 1, "two.npz", "'video'")
    np.save(tmp_path / "grey.npy", np.zeros((2, 32, 32, 1), np.uint8))
    fails(capsys, ["stream", trained, "--input", tmp_path / "grey.npy"], 2, "1 channels", "takes 3")


def test_a_damaged_byte_in_a_compressed_clip(trained, tmp_path, capsys):
    path = tmp_path / "clip.npz"
    np.savez_compressed(path, video=np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)).astype(np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.write_bytes(data)
    fails(capsys, ["stream", trained, "--input", path], 1, "clip.npz", "not a readable")


def test_a_path_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    fails(capsys, ["data", "make", "pathtracker", "--out", tmp_path / "file", "--train", "10"], 1, "file")
    fails(capsys, ["bench", "--op", "spectral", "--output", tmp_path / "file" / "b"], 1, "file")


def copied(trained, tmp_path):
    import shutil

    return shutil.copytree(trained, tmp_path / "copy")


def files(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--embed-dim", "16"], ["embed-dim is 4, not 16", "leave --embed-dim out"]),
        (["--normalization", "imagenet"], ["--normalization"]),
        (["--distractors", "14"], ["distractors is 0, not 14"]),
        (["--mixer-options", "rho=0.5"], ["mixer-options"]),
        (["--frame-readout", "mean"], ["--frame-readout"]),
    ],
)
def test_resume_refuses_another_run_and_changes_nothing(trained, tmp_path, flags, says, capsys):
    run_dir = copied(trained, tmp_path)
    before = files(run_dir)
    fails(capsys, ["train", "demo", "--out", run_dir, "--resume", *flags], 2, "continues the run as it was", *says)
    assert files(run_dir) == before


@pytest.mark.parametrize(
    ("recipe", "flags", "says"),
    [
        ("pathfinder", [], ["holds a run of 'demo', not 'pathfinder'"]),
        ("demo", ["--seed", "1"], ["seed 42", "use the same"]),
        pytest.param("demo", ["--steps", "5"], ["is at step 6 of 5", "more steps"], marks=pytest.mark.slow),
        ("demo", ["--batch-size", "7"], ["48", "a batch size that divides it"]),
    ],
)
def test_a_refused_resume_leaves_a_run_that_resumes(trained, tmp_path, recipe, flags, says, capsys):
    run_dir = copied(trained, tmp_path)
    before = files(run_dir)
    fails(capsys, ["train", recipe, "--out", run_dir, "--resume", "--steps", "8", *flags], 2, *says)
    assert {path: data for path, data in files(run_dir).items() if path in before} == before
    assert main(["train", "demo", "--out", str(run_dir), "--resume", "--steps", "7"]) == 0


def test_resume_takes_the_run_that_was_written_last(trained, tmp_path, monkeypatch):
    import os
    import shutil

    monkeypatch.chdir(tmp_path)
    for name, age in (("demo-mine", 0), ("demo-zzz", 100)):
        folder = shutil.copytree(trained, tmp_path / "runs" / name)
        then = time.time() - age
        os.utime(folder / "checkpoints", (then, then))
    assert main(["train", "demo", "--resume", "--steps", "7"]) == 0
    assert [path.parts[-3] for path in (tmp_path / "runs").glob("*/checkpoints/step_7")] == ["demo-mine"]


def test_a_file_names_the_recipe_and_its_run_is_resumed_by_the_printed_command(trained, tmp_path, capsys):
    run_dir = copied(trained, tmp_path)
    (tmp_path / "run.toml").write_text(f'recipe = "demo"\nout = "{run_dir}"\nsteps = 7\n')
    assert main(["train", "demo", "--config", str(tmp_path / "run.toml"), "--resume"]) == 0
    capsys.readouterr()
    fails(capsys, ["train", "images", "--config", tmp_path / "run.toml"], 2, "recipe in", "is demo", "says images")


def test_one_class_is_told_by_its_folder(tmp_path, capsys):
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    says = ["ImageFolder has one class, 'cats'", "at least 2"]
    fails(capsys, ["train", "images", "--data-dir", tmp_path / "photos", "--out", tmp_path / "run"], 2, *says)


def test_resume_takes_the_runs_own_values_and_can_go_further(trained, tmp_path, capsys):
    run_dir = copied(trained, tmp_path)
    assert main(["train", "demo", "--out", str(run_dir), "--resume", "--steps", "9"]) == 0
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 9
    assert main(["inspect", str(run_dir)]) == 0


def test_resume_of_nothing_leaves_nothing(tmp_path, capsys):
    fails(capsys, ["train", "demo", "--resume", "--out", tmp_path / "none"], 1, "no configuration")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("form", ["arrayrecord", pytest.param("tfrecord", marks=pytest.mark.slow)])
def test_training_from_made_files(tmp_path, form, capsys):
    folder = tmp_path / "made"
    make = ["data", "make", "pathtracker", "--out", folder, "--train", 24, "--val", 10, "--test", 9, "--frames", 8]
    assert main([str(a) for a in [*make, "--distractors", 0, "--format", form, "--shard-size", 10]]) == 0
    assert main(["data", "verify", str(folder)]) == 0
    tiny = ["--steps", "2", "--batch-size", "8", "--embed-dim", "4", "--logger", "jsonl", "--data-dir", str(folder)]
    for flags, says in (
        (["--seq-len", "16"], "--seq-len 16 does not hold: the data says 8"),
        (["--distractors", "5"], "--distractors does not apply to StoredFiles"),
        (["--dataset", "pathfinder"], "--dataset pathtracker"),
    ):
        capsys.readouterr()
        fails(capsys, ["train", "demo", *tiny, "--out", tmp_path / "refused", *flags], 2, says)
    assert main(["train", "demo", *tiny, "--out", str(tmp_path / "run")]) == 0
    assert main(["eval", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["count"] == 9


def test_a_folder_without_a_run(tmp_path, capsys):
    for command in (["eval", tmp_path], ["inspect", tmp_path]):
        fails(capsys, command, 1, "no configuration", str(tmp_path))


@pytest.mark.slow
def test_models_that_cannot_stream_say_why(tmp_path, clip, capsys):
    attention = ["--cssm", "transformer", "--embed-dim", "8", "--mixer-options", "heads=2"]
    for options, says in (
        (attention, "not recurrent"),
        (["--norm-type", "global_layer"], "cannot stream"),
    ):
        run_dir = tmp_path / options[1]
        assert main(["train", "demo", *TINY, *options, "--steps", "2", "--out", str(run_dir)]) == 0
        capsys.readouterr()
        fails(capsys, ["stream", run_dir, "--input", clip], 2, says)


def test_a_damaged_only_checkpoint_is_refused(trained, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(trained, tmp_path / "copy")
    for path in sorted((copy / "checkpoints").rglob("*")):
        if path.is_file() and path.stat().st_size > 0 and path.suffix != ".json":
            path.write_bytes(b"\0" * path.stat().st_size)
    assert main(["eval", str(copy)]) == 1
    assert "cssm: error: " in capsys.readouterr().err.strip().splitlines()[-1]
