"""cssm data speed: samples a second, where the time goes, and the cores that a rate needs."""

import re

import miniatures
import pytest

from cssm.cli import main
from cssm.data import Imagenette, PathTracker
from cssm.data.speed import Speed, measure, stages


def test_cores_are_enough_for_the_rate():
    speed = Speed(one=400.0, threads=2, all=700.0, stages={})
    assert [speed.cores(rate) for rate in (1.0, 400.0, 401.0, 3000.0)] == [1, 1, 2, 8]


def test_stages_are_those_of_photographs(tmp_path):
    miniatures.imagenette(tmp_path)
    spent = stages(Imagenette(root=tmp_path, size=16, random_crop=0.3), 0.1)
    assert list(spent) == ["reading", "decoding", "cropping"] and min(spent.values()) > 0
    speed = measure(Imagenette(root=tmp_path, size=16), seconds=0.1, batch_size=8, threads=2)
    assert speed.threads == 2 and min(speed.one, speed.all) > 50
    assert measure(PathTracker(frames=4), seconds=0.1).stages == {}


@pytest.mark.parametrize(
    ("name", "files", "unit", "split"),
    [
        ("imagenette", miniatures.imagenette, "images", True),
        ("parquet", miniatures.parquet_set, "images", True),
        ("imagenet", miniatures.packed_set, "images", True),
        ("pathfinder", miniatures.pathfinder_png, "images", False),
        ("pathtracker", None, "videos", False),
    ],
)
def test_the_command(tmp_path, name, files, unit, split, capsys):
    folder = [] if files is None else ["--data-dir", str(files(tmp_path))]
    assert main(["data", "speed", name, *folder, "--seconds", "0.1", "--batch-size", "4", "--rate", "1000"]) == 0
    one, many, cores = capsys.readouterr().out.strip().splitlines()
    assert re.match(rf"[\d,]+ {unit}/s on one core", one) and ("reading" in one and "%" in one) == split
    assert re.fullmatch(rf"[\d,]+ {unit}/s with \d+ threads of the loader", many)
    assert re.fullmatch(rf"at 1,000 {unit}/s of training: [\d,]+ cores?", cores)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["imagenette"], "imagenette is read from files: give --data-dir"),
        (["pathtracker", "--seconds", "0"], "--seconds is 0.0: give 0.1 to 600"),
        (["pathtracker", "--rate", "nan"], "--rate is nan: give 1 to 1e+09"),
        (["pathtracker", "--batch-size", "0"], "--batch-size is 0: give 1 to 65536"),
        (["pathtracker", "--threads", "-1"], "threads -1 is out of range"),
    ],
)
def test_mistakes_are_one_line(argv, says, capsys):
    assert main(["data", "speed", *argv]) == 2
    err = capsys.readouterr().err.strip()
    assert says in err and len(err.splitlines()) == 1
