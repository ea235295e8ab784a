"""Every data set, generated and from files, is trainable from `cssm train`: on miniatures of the published sets."""

import json

import miniatures
import pytest
from command_lines import run_of

from cssm.cli import main
from cssm.recipes import prepare

SETS = {
    "pathtracker": ("pathtracker --train-size 9 --val-size 9 --seq-len 6", None),
    "girik": ("--dataset girik --train-size 9 --val-size 9 --seq-len 6", None),
    "pathfinder": ("pathfinder --train-size 9 --val-size 9 --image-size 32", None),
    "featuretracker": ("featuretracker --train-size 9 --val-size 9 --seq-len 6", None),
    "digits": ("digits", None),
    "pathfinder png": ("pathfinder --image-size 16", miniatures.pathfinder_png),
    "pathfinder lra": ("pathfinder --difficulty 6 --image-size 16", miniatures.pathfinder_lra),
    "pathfinder tfrecord": ("pathfinder", miniatures.pathfinder_tfrecord),
    "pathtracker tfrecord": ("pathtracker --seq-len 3", miniatures.pathtracker_tfrecord),
    "pathtracker flat": ("--dataset girik --seq-len 3", miniatures.pathtracker_flat),
    "pathtracker npy": ("pathtracker", miniatures.pathtracker_npy),
    "images in splits": ("images --image-size 16", miniatures.images_split),
    "images alone": ("images --image-size 16", miniatures.images_alone),
    "imagenette": ("imagenette --image-size 16 --holdout 0.25", miniatures.imagenette),
    "imagenet folder": ("images --dataset imagenet --image-size 16", miniatures.imagenet_folder),
    "imagenet tfrecord": ("images --dataset imagenet --image-size 16", miniatures.imagenet_records),
    "imagenet arrayrecord": ("images --dataset imagenet --image-size 16", miniatures.imagenet_arrayrecords),
    "imagenet packed": ("images --dataset imagenet --image-size 16 --crop-pct 0.9", miniatures.packed_set),
    "images packed": ("images --image-size 16 --random-crop 0.3 --interpolation bicubic", miniatures.packed_set),
    "parquet": ("images --dataset parquet --image-size 16", miniatures.parquet_set),
}
TINY = "--embed-dim 4 --steps 2 --batch-size 4 --logger jsonl"


def line_of(name, folder):
    """The command line of `cssm train`, its files written."""
    line, files = SETS[name]
    folder.mkdir()
    flag = "--tfrecord_dir" if "tfrecord" in name else "--data-dir"  # the published name of it
    return f"{line} {TINY}" + ("" if files is None else f" {flag} {files(folder)}")


@pytest.mark.parametrize("name", SETS)
def test_a_command_line_makes_a_run_that_can_start(name, tmp_path):
    run = run_of(line_of(name, tmp_path / "set"))
    prepare(run, tmp_path / "run", resume=False)
    assert run.model.num_classes == run.task.num_classes == run.data.num_classes
    assert run.model.grid == run.data.sample_spec["input"].shape[-3:-1]
    sizes = (run.train_size, run.val_size, run.test_size)
    assert (sizes == (None, None, None)) == (SETS[name][1] is not None or name == "digits")  # all that files hold
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_it_trains_and_reports_its_baseline(name, tmp_path, capsys):
    words = line_of(name, tmp_path / "set").split()
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 0
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    generated = SETS[name][1] is None and name != "digits"
    assert {"val_accuracy", "markers_only" if generated else "majority_class"} <= set(summary)
