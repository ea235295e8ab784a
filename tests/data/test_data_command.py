"""cssm data, for every data set."""

import dataclasses
import json
import re

import miniatures
import numpy as np
import pytest
from PIL import Image

from cssm.cli import main
from cssm.data import DATASETS

FILES = {
    "images": miniatures.images_split,
    "imagenette": miniatures.imagenette,
    "imagenet": miniatures.imagenet_records,
    "parquet": miniatures.parquet_set,
    "packed": miniatures.packed_set,
    "pathfinder": miniatures.pathfinder_png,
    "pathfinder_files": miniatures.pathfinder_tfrecord,
    "pathtracker": miniatures.pathtracker_npy,
    "pathtracker_files": miniatures.pathtracker_flat,
}


def run(*argv):
    return main(["data", *map(str, argv)])


@pytest.mark.parametrize("name", FILES)
def test_preview_and_check_of_files(tmp_path, name, capsys):
    root = tmp_path / "set"
    root.mkdir()
    folder = FILES[name](root)
    assert run("preview", name, "--data-dir", folder, "--output", tmp_path / "a.png", "--samples", 2) == 0
    assert Image.open(tmp_path / "a.png").size[0] > 100
    assert run("check", name, "--data-dir", folder, "--samples", 12, "--seed", 1) == 0
    out = capsys.readouterr().out
    assert re.search(r"majority class +0\.\d{3} ±", out)
    assert ("colour histogram" in out) == (DATASETS[name]().num_classes == 2 if "path" in name else False)


def test_made_sets(tmp_path, capsys):
    made = ("make", "featuretracker", "--out", tmp_path / "d", "--train", 30, "--val", 0, "--test", 5, "--frames", 4)
    assert run(*made) == 0 and run("verify", tmp_path / "d") == 0
    assert run("check", "featuretracker", "--data-dir", tmp_path / "d") == 0
    assert "markers only" in capsys.readouterr().out
    clip = ("clip", "featuretracker", "--data-dir", tmp_path / "d", "--output", tmp_path / "c.npz")
    assert run(*clip, "--index", 4) == 0
    video = np.load(tmp_path / "c.npz")["video"]
    np.testing.assert_array_equal(video, DATASETS["featuretracker"](frames=4).source("test", size=5)[4]["input"])
    for argv, says in (
        (["--index", 5], "--index is 5: the test split has 5 samples"),
        (["--split", "val"], "has no split 'val': it has train, test"),
    ):
        assert run(*clip, *argv) == 2
        assert says in capsys.readouterr().err


def test_clip_of_published_files(tmp_path):
    miniatures.pathtracker_npy(tmp_path)
    clip = ("clip", "girik", "--data-dir", tmp_path, "--frames", 8, "--output", tmp_path / "c")
    assert run(*clip) == 0
    assert np.load(tmp_path / "c.npz")["video"].shape == (8, 4, 4, 3)


def test_split_and_seed_reach_the_samples(tmp_path, capsys):
    miniatures.imagenette(tmp_path)
    for split, n in (("train", 80), ("val", 20)):
        assert run("check", "imagenette", "--data-dir", tmp_path, "--split", split) == 0
        assert f"(n = {n})" in capsys.readouterr().out
    miniatures.pathtracker_tfrecord(tmp_path / "b")
    for folder, name in ((["--data-dir", tmp_path / "b"], "pathtracker"), (["--frames", 4], "featuretracker")):
        sheets = []
        for seed in ((), ("--seed", 3), ("--seed", 4), ("--seed", 4), ("--split", "val")):
            assert run("preview", name, *folder, *seed, "--output", tmp_path / "a.png", "--samples", 1) == 0
            sheets.append((tmp_path / "a.png").read_bytes())
        assert sheets[2] == sheets[3] and len(set(sheets)) == 4


@pytest.mark.parametrize("action", ["make", "preview", "check", "clip", "verify"])
def test_every_action_teaches(action, capsys):
    for argv in ([action, "--help"], [action, "pathtracker", "--help"], [action, "-h"]):
        if action == "verify" and "pathtracker" in argv:
            continue
        with pytest.raises(SystemExit) as stop:
            run(*argv)
        out = capsys.readouterr().out
        assert stop.value.code in (0, None) and "usage: cssm data" in out
        if action != "verify":
            assert ("pathfinder" in out) == ("pathtracker" not in argv)  # names to choose from, or options
            assert ("--distractors" in out) == ("pathtracker" in argv)


@pytest.mark.parametrize("name", DATASETS.names())
def test_help_of_every_data_set(name, capsys):
    with pytest.raises(SystemExit):
        run("preview", name, "--help")
    out = capsys.readouterr().out
    assert "--data-dir" in out and "--root" not in out and "--split" in out and "(default: None)" not in out
    documented = [field.name for field in dataclasses.fields(DATASETS[name]) if field.name != "root"]
    assert all(f"--{field.replace('_', '-')}" in out for field in documented)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["preview", "imagenette"], "imagenette is read from files: give --data-dir"),
        (["preview", "imagenette", "--data-dir", "none"], "no folder none"),
        (["preview", "digits", "--data-dir", "."], "has no published files to read"),
        (["preview", "imagenete"], "did you mean 'imagenette'"),
        (["make", "imagenet", "--out", "x"], "has files of its own; it can write digits, featuretracker"),
        (["make", "digits", "--out", "x", "--train", "1258"], "1258 samples were asked for, the files hold 1257"),
        (["make", "digits", "--out", "x", "--format", "tfrecord"], "no published TFRecord layout"),
        (["make"], "name a data set: digits, featuretracker, pathfinder, pathtracker"),
        (["clip", "digits", "--output", "x"], "still images, not videos"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_mistakes_are_one_line(argv, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) in (1, 2)
    err = capsys.readouterr().err.strip()
    assert says in err and len(err.splitlines()) == 1


def test_options_of_the_files_stand_where_the_folder_is_given(tmp_path, capsys):
    miniatures.pathtracker_npy(tmp_path)
    for argv, says in (([tmp_path, "--distractors", 3], "--distractors"), ([], "--data-dir")):
        assert run("check", "pathtracker", "--data-dir", *argv) == 2
        err = capsys.readouterr().err
        assert says in err and len(err.strip().splitlines()) == 1


def test_metadata_names_what_was_made(tmp_path):
    assert run("make", "pathfinder", "--out", tmp_path, "--train", 3, "--val", 0, "--test", 0, "--size", 16) == 0
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    assert metadata["dataset"] == "pathfinder" and metadata["options"]["size"] == metadata["image_size"] == 16
