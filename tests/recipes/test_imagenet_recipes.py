"""The recipes of ImageNet, Imagenette and LeJEPA: their protocols field by field, and that each can start."""

import miniatures
import pytest
from command_lines import run_of

from cssm.cli import main
from cssm.core.errors import UsageError
from cssm.data.augment import Views
from cssm.models import ConvNeXtConfig, SimpleCSSMConfig
from cssm.recipes import RECIPES, prepare
from cssm.tasks import LeJEPA

COLUMN = {  # source 003's column ImageNet-1k
    "data": {"size": 224},
    "model": {
        "seq_len": 8, "drop_path": 0.1, "stem": "default", "stem_layers": 2, "position": "learned",
        "norm": "global_layer", "pool": "mean", "readout": "mean",
    },
    "train": {
        "epochs": 300, "batch_size": 512, "lr": 1e-3, "weight_decay": 5e-2, "grad_clip": 1.0, "ema": 0.9998,
        "optimizer": "adamw", "warmup_steps": 500, "layer_decay": None,
    },
    "task": {"label_smoothing": 0.1, "criterion": "softmax"},
    "augment": {"policy": "three", "mixup": 0.8, "cutmix": 1.0, "erasing": 0.25},
}  # fmt: skip


@pytest.mark.parametrize("part", COLUMN)
def test_imagenet_cssm_is_the_column_of_the_source(part):
    found = getattr(RECIPES["imagenet_cssm"](), part)
    assert {name: getattr(found, name) for name in COLUMN[part]} == COLUMN[part]


def test_the_test_split_chooses_nothing():
    for name in ("imagenet_cssm", "deit3_large", "cssm_deit3", "convnext_tiny", "convnext_ssm", "lejepa"):
        assert RECIPES[name]().data.holdout == 0.01, name
        assert RECIPES[name]().data.splits == ("train", "val", "test"), name
    for name in ("imagenette_vit", "imagenette_baseline", "imagenette_convnext"):
        assert RECIPES[name]().data.splits == ("train", "val", "test"), name


def test_what_is_published_of_the_others():
    deit, cssm, plain, ssm = (RECIPES[n]() for n in ("deit3_large", "cssm_deit3", "convnext_tiny", "convnext_ssm"))
    assert (deit.model.depth, deit.model.embed_dim, deit.model.drop_path, deit.model.layer_scale) == (
        24,
        1024,
        0.45,
        1e-4,
    )
    assert (deit.train.optimizer, deit.task.criterion, deit.augment.erasing) == ("lamb", "sigmoid", 0.0)
    assert (cssm.model.mixer, cssm.model.timesteps, cssm.train) == ("opponent", 8, deit.train)
    assert plain.model == ConvNeXtConfig(drop_path=0.1) and plain.train.warmup_steps == 6255  # 20 epochs of 4096 rows
    assert (plain.augment.policy, plain.augment.erasing) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert (ssm.model.variant, ssm.model.timesteps) == ("ssm", 8)


TINY = {
    "imagenet_cssm": ("--embed-dim 4 --image-size 16", miniatures.imagenet_folder),
    "deit3_large": ("--embed-dim 8 --depth 2 --head-dim 4 --image-size 32", miniatures.imagenet_folder),
    "cssm_deit3": ("--embed-dim 4 --depth 2 --image-size 32", miniatures.imagenet_records),
    "convnext_tiny": ("--depths 1 1 --dims 4 8 --image-size 32", miniatures.imagenet_folder),
    "convnext_ssm": ("--depths 1 1 --dims 4 8 --image-size 32", miniatures.imagenet_arrayrecords),
    "imagenette_vit": ("--embed-dim 8 --depth 2 --image-size 32", miniatures.imagenette),
    "imagenette_baseline": ("--embed-dim 8 --depth 2 --head-dim 4 --image-size 32", miniatures.imagenette),
    "imagenette_convnext": ("--depths 1 1 --dims 4 8 --image-size 32", miniatures.imagenette),
    "lejepa": ("--embed-dim 8 --depth 2 --blocks 0 1 --image-size 32 --local-size 16", miniatures.imagenet_folder),
    "lejepa_small": ("--embed-dim 4", None),
}


def line_of(name, folder):
    line, files = TINY[name]
    folder.mkdir()
    holdout = "" if files is None else f"--data-dir {files(folder)} --holdout 0.25"
    return f"{name} {line} --batch-size 4 --steps 2 --warmup-steps 1 --logger jsonl {holdout}"


QUICK = ("imagenet_cssm", "convnext_ssm", "lejepa")
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TINY]


@pytest.mark.parametrize("name", EVERY)
def test_it_can_start(name, tmp_path):
    """The loss of an augmented batch is traced: model, task, data and augmentation fit together."""
    run = run_of(line_of(name, tmp_path / "set"))
    prepare(run, tmp_path / "run", resume=False)
    assert run.task.num_classes == run.model.num_classes == run.data.num_classes
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_it_trains(name, tmp_path, capsys):
    assert main(["train", *line_of(name, tmp_path / "set").split(), "--out", str(tmp_path / "run")]) == 0
    assert '"val_accuracy"' in capsys.readouterr().out


def test_images_without_views_are_refused_before_anything_is_written(tmp_path, capsys):
    words = ["train", "lejepa_small", "--embed-dim", "4", "--steps", "2", "--out", str(tmp_path / "run")]
    assert main([*words, "--augment", "none"]) == 2
    assert "images with --augment views" in capsys.readouterr().err and not (tmp_path / "run").exists()
    for line, message in (
        ("digits --dataset photos --image-size 32 --augment views --local-size 16", "which Classify does not compare"),
        ("lejepa_small --local-size 80", "local_size is 80 px of images of 64 x 64"),
        ("lejepa_small --frame-readout mean", "give readout='last'"),
        ("tracker_small --layer-decay 0.5", "by numbered blocks"),
    ):
        assert main(["train", *line.split(), "--steps", "2", "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "run").exists(), line
    small = RECIPES["lejepa_small"]()
    assert (
        isinstance(small.task, LeJEPA)
        and isinstance(small.augment, Views)
        and isinstance(small.model, SimpleCSSMConfig)
    )
    with pytest.raises(UsageError, match="blocks holds 7"):
        prepare(run_of("lejepa_small --blocks 7"), tmp_path / "run", resume=False)
    assert RECIPES["lejepa"]().train.grad_clip is small.train.grad_clip is None  # labels would be a part of the norm


def test_what_lejepa_has_learned_is_fine_tuned(tmp_path):
    """The trunk of `lejepa` into `imagenette_vit` of another image size, as docs/self-supervision.md says."""
    from cssm.recipes.warm_start import load_named, parameters

    small = "--embed-dim 8 --depth 2 --batch-size 4 --steps 2 --warmup-steps 1"
    (tmp_path / "set").mkdir()
    first = run_of(f"lejepa {small} --blocks 0 1 --image-size 32 --local-size 16 --data-dir "
                   f"{miniatures.imagenet_folder(tmp_path / 'set')} --holdout 0.25")  # fmt: skip
    (tmp_path / "other").mkdir()
    second = run_of(f"imagenette_vit {small} --cssm no_gate --image-size 48 --data-dir "
                    f"{miniatures.imagenette(tmp_path / 'other')} --holdout 0.25")  # fmt: skip
    loaded = load_named(second.build(), parameters(first.build()), "a run of lejepa")
    assert set(loaded.changed) == {"stem.positions"}
    assert all(name.startswith(("head.", "projections.")) for name in loaded.left)
    assert all(name.startswith("head.") for name in loaded.kept)
