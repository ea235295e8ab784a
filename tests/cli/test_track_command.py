"""cssm track and cssm eval --dataset: out of the box, in px of the given video."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from cssm.cli import main
from cssm.data.formats.tapvid import TapVideo, write_tapvid
from cssm.data.tracks import Tracks

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def sample():
    return Tracks(frames=6, size=64, points=4, level="easy").source("test", size=3)[2]


def train_small(out):
    """Train a tracker for two steps."""
    words = ["--fine", "8", "--coarse", "8", "--groups", "1", "--search", "4", "--channels", "4", "--hidden", "8"]
    words += ["--blocks", "1", "1", "--layers", "1", "--frames", "5", "--size", "32", "--points", "3", "--steps", "2"]
    words += ["--train-size", "20", "--val-size", "9", "--test-size", "9", "--batch-size", "4"]
    assert main(["train", "tracker_small", *words, "--compute-dtype", "bfloat16", "--out", str(out)]) == 0


@pytest.fixture
def clip(tmp_path, sample):
    path = tmp_path / "clip.npz"
    np.savez(path, video=np.repeat(np.repeat(sample["input"], 2, 1), 3, 2))  # 128 high, 192 wide
    return path


def test_a_grid_drawn_and_saved(tmp_path, clip, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["track", str(clip), "--grid", "3", "--side", "64", "--save", "a.npz", "--save", "a.csv"]
    assert main([*words, "--output", "a.gif"]) == 0
    out = capsys.readouterr()
    assert out.out.splitlines() == ["wrote a.gif", "wrote a.npz", "wrote a.csv"]
    assert "9 points, 6 frames of 192 x 128" in out.err
    assert Image.open("a.gif").size == (192, 128) and Image.open("a.gif").n_frames == 6
    with np.load("a.npz") as held:
        tracks, visible, queries = held["tracks"], held["visible"], held["query_points"]
    assert tracks.shape == (9, 6, 2) and visible.shape == (9, 6) and queries[4].tolist() == [0, 64, 96]
    assert np.abs(tracks[:, 0] - queries[:, :0:-1]).max() < 12, "px of the given video"
    with open("a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 54 and float(rows[7]["x"]) == pytest.approx(tracks[1, 1, 0], abs=0.006)


def test_points_of_later_frames_a_sheet_and_lines(tmp_path, clip, capsys):
    words = ["track", str(clip), "--points", "0,60,90; 3,20,30", "--side", "64", "--live", "--show", "belief"]
    assert main([*words, "--output", str(tmp_path / "a.png"), "--save", str(tmp_path / "a.csv")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()[:6]]
    assert [line["frame"] for line in lines] == list(range(6)) and len(lines[0]["points"]) == 2
    assert not any(line["visible"][1] for line in lines[:3])
    assert Image.open(tmp_path / "a.png").size[0] > 600
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert len(rows) == 1 + 6 + 3, "a point has no rows before its frame"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--points", "0,1,2", "--grid", "3"], "give --points or --grid, not both"),
        (["--points", "0,1"], "'0,1' is no point: give frame,y,x"),
        (["--points", "0,500,2"], "outside the video of 192 x 128 px"),
        (["--points", "9,5,2", "--save", "a.npz"], "the video has 6 frames: the point of frame 9 never begins"),
        (["--grid", "0"], "--grid is 0"),
        (["--grid", "2", "--output", "a.avi"], "give a name that ends in .mp4, .webm, .gif, .png"),
        (["--grid", "2", "--save", "a.txt"], "ends in .npz or .csv"),
        (["--grid", "2", "--save", "a.csv", "--show", "belief"], "--show and --tail are for a drawing"),
        (["--grid", "2", "--model", "trackr"], "no model 'trackr'"),
        (["--grid", "2", "--frames", "0"], "--frames is 0"),
        (["--grid", "2", "--side", "2", "--save", "a.npz"], "side is 2 px"),
    ],
)
def test_mistakes_are_one_clear_error_and_leave_nothing(tmp_path, clip, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["track", str(clip), *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.npz"]


def test_other_videos_and_models_are_one_clear_error(tmp_path, clip, capsys):
    assert main(["track", str(tmp_path / "none.mp4")]) == 1
    assert "no video" in capsys.readouterr().err
    np.savez(tmp_path / "one.npz", video=np.zeros((1, 32, 32, 3), np.uint8))
    assert main(["track", str(tmp_path / "one.npz"), "--save", str(tmp_path / "a.csv")]) == 2
    assert "one frame: there is nothing to follow" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()
    assert main(["track", str(clip), "--model", "pathtracker_demo"]) == 2
    assert "follows no points" in capsys.readouterr().err


def test_eval_on_published_files(tmp_path, sample, capsys):
    points = sample["tracks"].astype(float) / 64
    path = write_tapvid(tmp_path / "davis.pkl", [TapVideo("dog", sample["input"], points, sample["occluded"])])
    for mode in ("first", "strided"):
        words = ["eval", "tracker_small", "--dataset", "tapvid_davis", "--data-dir", str(path), "--query-mode", mode]
        assert main(words) == 0
        out = capsys.readouterr().out
        record = json.loads(out.splitlines()[-1])
        assert "dog" in out and "static baseline" in out
        assert record["average_jaccard"] > record["static"], mode


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "tapvid_davis"], "give its .pkl"),
        (["--dataset", "davis"], "unknown videos 'davis'"),
        (["--dataset", "synthetic-v1-easy", "--data-dir", "x"], "is generated"),
        (["--dataset", "synthetic-v1-easy", "--videos", "0"], "--videos is 0"),
        (["--dataset", "synthetic-v1-easy", "--batch-size", "4"], "are for the run's own data"),
        (["--dataset", "synthetic-v1-easy", "--checkpoint", "last"], "has one set of parameters"),
        (["--videos", "3"], "--query-mode and --videos are for --dataset"),
    ],
)
def test_mistakes_of_eval_are_one_clear_error(capsys, words, message):
    assert main(["eval", "tracker_small", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_tracker_is_trained_evaluated_and_followed_with_and_other_commands_send_to_track(tmp_path, clip, capsys):
    run, csv_file = tmp_path / "tracker", tmp_path / "clip.csv"
    train_small(run)
    assert {path.name for path in run.iterdir()} >= {"curves.png", "predictions.png", "summary.json"}
    capsys.readouterr()
    assert main(["eval", str(run), "--batch-size", "3"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 <= record["average_jaccard"] <= 1 and 0 < record["static"] < 1
    assert main(["track", str(clip), "--grid", "2", "--model", str(run), "--save", str(csv_file)]) == 0
    for command in (["predict", run, clip], ["stream", run, "--input", clip], ["inspect", run]):
        assert main([str(word) for word in command]) == 2
        assert f"follows points: use cssm track VIDEO --model {run}" in capsys.readouterr().err


def test_a_model_that_follows_no_points_is_refused(tmp_path, capsys):
    from flax import nnx

    from cssm.core.errors import UsageError
    from cssm.models import SimpleCSSMConfig
    from cssm.recipes import RECIPES

    run = RECIPES["tracker_small"]()
    with pytest.raises(UsageError, match="SimpleCSSM follows no points"):
        run.task.check(run.data, SimpleCSSMConfig().make(nnx.Rngs(0)))


def test_a_frozen_set_takes_no_options(tmp_path, capsys):
    path = tmp_path / "synthetic-v1-easy.pkl"
    for options in (["--videos", "3"], ["--size", "64"]):
        assert main(["data", "make", "tracks", "--output", str(path), *options]) == 2
        assert "is a frozen set: leave the other options out" in capsys.readouterr().err
    assert not path.exists()


def test_other_models_stream_a_video_frame_by_frame(tmp_path, sample, capsys):
    run = tmp_path / "run"
    assert main(["train", "demo", "--steps", "1", "--train-size", "64", "--val-size", "16", "--out", str(run)]) == 0
    for t, frame in enumerate(sample["input"]):
        Image.fromarray(frame[:, :48]).save(tmp_path / f"{t}.png")
    capsys.readouterr()
    assert main(["stream", str(run), "--input", str(tmp_path), "--check"]) == 0
    out = capsys.readouterr().out
    assert "6 frames," in out and float(out.split()[-1]) < 1e-5
