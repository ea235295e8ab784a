"""From a command line to a run: every field can be set, under every name; published command lines work as pasted."""

import dataclasses
import os

import pytest
from command_lines import run_of

from cssm.cli import vocabulary
from cssm.cli.fields import field_docs, fields_of
from cssm.cli.flags import run_fields
from cssm.cli.train import Command, _new, _run_dir, main
from cssm.cli.words import options_of
from cssm.core.errors import DataError, UsageError
from cssm.data import DATASETS
from cssm.data.augment import AUGMENTS
from cssm.models import MODELS
from cssm.nn import MIXERS
from cssm.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_field_of_every_recipe_has_a_name_a_type_and_a_docstring(name):
    if name == "blobs":
        return
    fields = run_fields(RECIPES[name]())
    known = vocabulary.names(fields)
    assert {field.path for field in fields} <= set(known)
    assert [field.path for field in fields if not field.doc] == []


KINDS = [DATASETS[n] for n in DATASETS.names()] + [AUGMENTS[n] for n in AUGMENTS.names()]
KINDS += list(dict.fromkeys(type(MODELS[n]) for n in MODELS.names()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_registered_configuration_documents_its_fields(kind):
    if kind.__module__.startswith("cssm."):
        assert {field.name for field in dataclasses.fields(kind)} <= set(field_docs(kind))


@pytest.mark.parametrize(
    ("line", "path", "value"),
    [
        ("demo --lr 0.5", "train.lr", 0.5),
        ("demo --train.lr=0.5", "train.lr", 0.5),
        ("demo --grad-clip None", "train.grad_clip", None),
        ("demo --no-progress", "train.progress", False),
        ("demo --progress true", "train.progress", True),
        ("demo --b2 .9", "train.b2", 0.9),
        ("demo --keep 9", "train.keep", 9),
        ("demo --cssm gdn", "model.mixer", "gdn"),
        ("demo --cssm_type gdn", "model.mixer", "gdn"),
        ("demo --model.mixer gdn", "model.mixer", "gdn"),
        ("demo --embed_dim 8", "model.embed_dim", 8),
        ("demo --stem-layers 3", "model.stem_layers", 3),
        ("demo --seq_len 12", "data.frames", 12),
        ("demo --seq_len 12", "model.seq_len", 12),
        ("demo --foil nearest", "data.foil", "nearest"),
        ("demo --skip 2", "data.skip", 2),
        ("pathfinder --seq_len 12", "model.seq_len", 12),
        ("pathfinder --image-size 64", "data.size", 64),
        ("pathfinder --pathfinder_difficulty 9", "data.difficulty", 9),
        ("demo --label-smoothing .1", "task.label_smoothing", 0.1),
        ("demo --test-size 90", "test_size", 90),
        ("demo --epochs 2", "train.steps", None),
        ("demo --epochs 2", "train.eval_every", None),
        ("pathtracker --steps 7", "train.epochs", None),
        ("demo --augment flip_shift --shift 2", "augment.shift", 2),
        ("demo --kernel-size 7", "model.mixer_options", {"memory": 8.0, "init_scale": 0.1, "kernel_size": 7}),
        ("demo --mixer-options rho=0.5 memory=1", "model.mixer_options", {"memory": 1, "init_scale": 0.1, "rho": 0.5}),
        ("demo --mixer-options", "model.mixer_options", {}),
        ("demo --cssm gdn --kernel-size 7", "model.mixer_options", {"kernel_size": 7}),
        ("demo --cssm no_gate", "model.mixer_options", {"memory": 8.0, "init_scale": 0.1}),
        ("digits --augment none", "model.num_classes", 10),
        ("digits", "task.class_names", tuple("0123456789")),
        ("demo --dataset featuretracker", "data.distractors", 0),
    ],
)
def test_a_field_is_set_under_each_of_its_names(line, path, value):
    found = {field.path: field.value for field in run_fields(run_of(line))}
    assert found[path] == value and type(found[path]) is type(value)


@pytest.mark.parametrize("name", ["demo", "pathfinder", "digits"])
def test_any_value_of_any_recipe_can_be_overridden(name):
    """Every field takes its own value back, by its full name, as words."""
    run = RECIPES[name]().fitted()
    for field in run_fields(run):
        if field.path in ("train.steps", "train.epochs") and field.value is None:
            continue  # the other unit is given
        words = (
            [f"{k}={v}" for k, v in field.value.items()]
            if isinstance(field.value, dict)
            else [str(v) for v in field.value]
            if isinstance(field.value, tuple)
            else [str(field.value)]
        )
        extra = ["--augment", "flip_shift"] if field.path.startswith("augment.") else []
        assert _new(RECIPES[name](), options_of([*extra, field.flag, *words]), name) == run, field.path


@pytest.mark.parametrize(
    ("line", "expected"),
    [  # of sources 002 and 003; `python main.py` becomes `cssm train`; the models of other files come with them
        ("--dataset pathfinder --pathfinder_difficulty 9", {"data.difficulty": 9, "model.mixer": "no_gate"}),
        ("--dataset pathfinder --pathfinder_difficulty 25 --seq_len 10", {"data.difficulty": 25, "model.seq_len": 10}),
        (
            "--arch simple --cssm opponent --seq_len 8 --dataset pathfinder --pathfinder_difficulty 20",
            {"model.mixer": "opponent", "data.difficulty": 20, "model.seq_len": 8},
        ),
        ("--arch simple --depth 1 --seq_len 96 --dataset pathfinder", {"model.depth": 1, "model.seq_len": 96}),
        ("--dataset girik --seq_len 32 --cssm no_gate", {"data.frames": 32, "model.seq_len": 32}),
        (
            "--dataset girik --embed_dim 64 --kernel_size 11 --batch_size 128 --epochs 120 --lr 1e-3 "
            "--weight_decay 1e-4 --grad_clip 1.0 --stem_mode pathtracker --pos_embed mrope "
            "--norm_type global_layer --pool_type max --frame_readout last --seed 42",
            {"model.embed_dim": 64, "train.batch_size": 128, "train.grad_clip": 1.0, "model.pool": "max"},
        ),
        (
            "--dataset girik --cssm spatiotemporal_attn --depth 3 --drop_path 0.1 --embed_dim 64",
            {"model.drop_path": 0.1, "model.depth": 3},
        ),
        ("--dataset girik --cssm mamba2_seq --state_dim 16", {"model.mixer_options": {"state_dim": 16}}),
        ("--model simple --cssm_type standard --num_timesteps 8 --dataset pathfinder", {"model.mixer": "standard"}),
    ],
)
def test_published_command_lines_work_as_pasted(line, expected):
    found = {field.path: field.value for field in run_fields(run_of(line))}
    assert {path: found[path] for path in expected} == expected
    assert found["model.mixer"] in MIXERS


def test_a_file_of_options_and_the_command_line_wins(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'recipe = "demo"\nlr = 0.5\n'
        '[model]\nmixer = "gdn"\nmixer_options = {kernel_size = 5}\n[train]\nseed = 7\nprogress = false\n'
    )
    run = run_of(f"--config {path} --train.seed 8")
    assert (run.recipe, run.train.lr, run.train.seed, run.train.progress) == ("demo", 0.5, 8, False)
    assert (run.model.mixer, run.model.mixer_options) == ("gdn", {"kernel_size": 5})
    more = tmp_path / "more.toml"
    more.write_text("lr = 0.25\n")
    run = run_of(f"--config {path} --config {more}")
    assert (run.train.lr, run.train.seed) == (0.25, 7)
    path.write_text("steps = 5\n")
    assert run_of(f"demo --config {path}").train.steps == 5
    assert run_of(f"demo --config {path} --epochs 2").train.epochs == 2
    path.write_text("[model]\ndepht = 2\n")
    with pytest.raises(UsageError, match=r"model\.depht in .*did you mean --model\.depth"):
        run_of(f"demo --config {path}")
    path.write_text("not toml")
    with pytest.raises(DataError, match="not TOML"):
        run_of(f"demo --config {path}")
    with pytest.raises(DataError, match="no such file"):
        run_of(f"demo --config {tmp_path / 'none.toml'}")


def test_options_that_the_data_decides_are_told_not_dropped():
    for line, says in (("demo --task.num-classes 3", "the data says 2"), ("demo --model.in-channels 1", "says 3")):
        with pytest.raises(UsageError, match=says):
            run_of(line)


def test_the_last_of_two_equal_options_wins():
    assert run_of("demo --lr 1 --train.lr 2").train.lr == 2
    assert type(run_of("demo --dataset digits --dataset featuretracker").data) is DATASETS["featuretracker"]


def test_augmentation_is_chosen_by_name():
    own = RECIPES["images"]().augment
    assert run_of("digits --augment none").augment is None
    assert run_of("digits --augment flip_shift").augment == RECIPES["digits"]().augment != own
    assert run_of("demo --augment flip_shift").augment == AUGMENTS["flip_shift"]()


def test_resume_takes_the_newest_run_of_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for when, name in enumerate(("demo-b", "demo-c", "demo-a", "digits-d")):
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
        os.utime(tmp_path / "runs" / name / "checkpoints", (when, when))
    (tmp_path / "runs" / "demo-e").mkdir()  # it never began
    assert _run_dir("demo", Command(resume=True)).name == "demo-a"


def test_help_is_short_and_help_all_is_whole(capsys):
    assert main(["demo", "--help"]) == 0
    short = capsys.readouterr().out
    assert main(["demo", "--help-all"]) == 0
    whole = capsys.readouterr().out
    run = RECIPES["demo"]()
    names = vocabulary.names(run_fields(run))
    for field in run_fields(run):
        shown = [f"--{name.replace('_', '-')} " in whole for name, f in names.items() if f.path == field.path]
        assert any(shown) or f"--no-{field.name}" in whole, field.path
    assert len(short.splitlines()) < len(whole.splitlines()) < 150
    assert all(group in short for group in ("model: SimpleCSSMConfig", "data: PathTracker", "train: TrainConfig"))
    assert "--cssm " in short and "--warmup-steps" not in short
    assert main(["pathfinder", "--help"]) == 0 and "--pathfinder-difficulty" in capsys.readouterr().out


def test_fields_of_a_configuration_say_what_they_are():
    field = next(f for f in fields_of(RECIPES["demo"]().train, "train") if f.name == "batch_size")
    assert (field.path, field.flag, field.value) == ("train.batch_size", "--train.batch-size", 64)
    assert "Rows per update" in field.doc
