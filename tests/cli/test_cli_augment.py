"""Augmentation on the command line: its fields are options of `cssm train` and `cssm data preview`."""

import dataclasses

import pytest
from PIL import Image

from cssm.cli import main
from cssm.cli.flags import run_fields
from cssm.cli.train import _new
from cssm.cli.vocabulary import names
from cssm.cli.words import options_of
from cssm.data import DATASETS
from cssm.data.augment import AUGMENTS, FlipShift, Photo
from cssm.recipes import RECIPES, execute
from cssm.train import load_config, read_metrics, save_config

FULL = "--crop-scale .3 --policy three --erasing .25 --mixup .8 --cutmix 1 --mix .9"


def run_of(line):
    name, *words = line.split()
    return _new(RECIPES[name](), options_of(words), name)


def test_every_field_of_photo_is_an_option_of_train():
    run = run_of(f"digits --augment photo {FULL} --normalization unit")
    want = Photo(
        crop_scale=0.3, policy="three", erasing=0.25, mixup=0.8, cutmix=1.0, mix=0.9, classes=10, pixels="unit"
    )
    assert run.augment == want and run.task.normalization == "unit"


def test_a_run_is_saved_with_it_and_read_back(tmp_path):
    run = run_of("digits --augment photo --policy rand-m9-mstd0.5-inc1 --jitter .2")
    save_config(tmp_path, run)
    assert load_config(tmp_path) == run


def test_runs_that_were_saved_when_augmentation_was_one_module_are_read(tmp_path):
    save_config(tmp_path, FlipShift(shift=2))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("cssm.data.augment.flip_shift.FlipShift", "cssm.data.augment.FlipShift"))
    assert load_config(tmp_path) == FlipShift(shift=2)


@pytest.mark.parametrize("name", sorted(RECIPES.names()))
def test_no_short_name_is_lost_to_photo(name):
    """Every field keeps the name that it has without the augmentation, and Photo's have names of their own."""
    run = dataclasses.replace(RECIPES[name](), augment=None)
    photo = dataclasses.replace(run, augment=Photo())
    assert names(run_fields(run)).keys() <= names(run_fields(photo)).keys()
    assert {field.name for field in dataclasses.fields(Photo)} <= names(run_fields(photo)).keys()


@pytest.mark.parametrize("augment", AUGMENTS.names())
def test_no_data_set_has_an_option_of_that_name(augment):
    mine = {field.name for field in dataclasses.fields(AUGMENTS[augment])}
    for name in DATASETS.names():
        assert not mine & {field.name for field in dataclasses.fields(DATASETS[name])}, name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train digits --augment photo --policy nine", "policy 'nine' is unknown"),
        ("train digits --augment photo --classes 4", "--classes 4 does not hold: the data says 10"),
        ("train digits --augment photo --crop-size 8", "crop_size 8 does nothing without crop_scale"),
        ("train demo --augment photo --crop-scale .5", "crop_scale would leave markers without their pixels"),
        (
            "train digits --erasing .5",
            "--erasing does nothing without an augmentation that has it: add --augment photo",
        ),
        ("data preview digits --augment foto", "did you mean 'photo'"),
        ("data preview digits --draws 3", "--draws is of an augmentation"),
        ("data preview digits --augment none --draws 3", "--draws is of an augmentation"),
        ("data preview digits --policy three", "Unrecognized options: --policy"),
        ("data preview digits --augment photo --draws 0", "draws is 0: give 1 to 64"),
        ("data preview digits --augment photo --classes 4", "--classes 4 does not hold: the data says 10"),
        ("data preview pathtracker --augment photo --mixup 1", "mixup or cutmix would leave markers"),
    ],
)
def test_mistakes_are_one_line(words, says, capsys):
    assert main(words.split()) == 2
    assert says in capsys.readouterr().err


def test_preview_of_an_augmentation(tmp_path, capsys):
    line = f"data preview digits --augment photo {FULL} --samples 3 --draws 2 --output {tmp_path / 'a.png'}"
    assert main(line.split()) == 0
    assert "wrote" in capsys.readouterr().out
    assert Image.open(tmp_path / "a.png").size[1] > 3 * 128
    small = f"data preview digits --augment flip_shift --shift 2 --samples 1 --draws 1 --output {tmp_path / 'b.png'}"
    assert main(small.split()) == 0


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_run_with_all_of_it_resumes_as_it_would_have_gone_on(tmp_path):
    """Killed after 3 of 6 steps: the augmentation of a step is a function of the seed and the step."""
    line = f"digits --augment photo {FULL} --embed-dim 8 --batch-size 16 --val-size 20 --train-size 64 --steps 6"
    run = run_of(f"{line} --eval-every 6 --checkpoint-every 3 --log-every 1 --logger jsonl --progress false")

    def kill(event):
        if event.kind == "log" and event.step >= 4:
            raise Killed

    execute(run, tmp_path / "a")
    with pytest.raises(Killed):
        execute(run, tmp_path / "b", callbacks=(kill,))
    execute(run, tmp_path / "b", resume=True)
    losses = [
        {r["step"]: r["loss"] for r in read_metrics(tmp_path / folder / "metrics.jsonl") if "loss" in r}
        for folder in ("a", "b")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6
