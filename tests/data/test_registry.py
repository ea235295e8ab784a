import subprocess
import sys

import miniatures
import pytest

from cssm.core.errors import DataError, UnknownNameError, UsageError
from cssm.core.registry import Registry
from cssm.data import (
    DataSet,
    FeatureTracker,
    Pathfinder,
    PathfinderFiles,
    PathTracker,
    PathTrackerFiles,
    StoredFiles,
    create_dataset,
    open_files,
)
from cssm.data.make import make


def test_unknown_names_say_what_was_meant(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'pathtracker'"):
        create_dataset("pathtraker")
    with pytest.raises(UnknownNameError, match="did you mean 'imagenette'"):
        create_dataset("imagenete", data_dir=tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'frames'"):
        create_dataset("pathtracker", frame=3)


def test_aliases():
    registry = Registry("thing")
    registry.register("long", aliases=("l",))(1)
    assert registry["l"] == registry["long"] == 1 and registry.names() == ["long"]
    assert "l" in registry and "x" not in registry and registry.canonical("l") == "long"
    for name, aliases in (("l", ()), ("other", ("long",)), ("another", ("l",))):
        with pytest.raises(ValueError, match="registered twice"):
            registry.register(name, aliases=aliases)(2)
    assert create_dataset("girik", frames=8) == PathTracker(frames=8)


def test_published_files_are_found(tmp_path):
    miniatures.pathtracker_npy(tmp_path)
    assert open_files(tmp_path, "girik", frames=32) == PathTrackerFiles(root=tmp_path, frames=32)
    with pytest.raises(UnknownNameError, match="option of pathtracker 'distractors'"):
        open_files(tmp_path, "pathtracker", distractors=3)
    with pytest.raises(DataError, match="no folder"):
        open_files(tmp_path / "none", "pathtracker")
    for name in ("featuretracker", "digits"):
        with pytest.raises(UsageError, match=f"{name!r} has no published files to read"):
            open_files(tmp_path, name)


def test_a_made_set_is_read_as_it_was_made(tmp_path):
    make(PathTracker(frames=8, distractors=0), out=tmp_path, splits={"val": 2, "train": 3})
    data = create_dataset("pathtracker", data_dir=tmp_path, frames=8)
    assert data == StoredFiles(root=tmp_path) == open_files(tmp_path, "stored")
    assert data.generator == PathTracker(frames=8, distractors=0) and data.splits == ("train", "val")
    with pytest.raises(UsageError, match="was made with frames 8, not 16: leave frames out"):
        open_files(tmp_path, "pathtracker", frames=16)
    with pytest.raises(UsageError, match="holds pathtracker, not pathfinder: give --dataset pathtracker"):
        open_files(tmp_path, "pathfinder")
    with pytest.raises(UnknownNameError, match="did you mean 'distractors'"):
        open_files(tmp_path, "pathtracker", distractor=0)
    assert open_files(tmp_path, "pathtracker", skip_corrupt=True).skip_corrupt


def test_made_pathfinder_sets_of_several_difficulties(tmp_path):
    """In tfrecord form each has its folder, as published."""
    for difficulty in (6, 9):
        config = Pathfinder(difficulty=difficulty, preset="lra32")
        make(config, out=tmp_path, splits={"val": 2}, format="tfrecord")
    data = open_files(tmp_path, "pathfinder", difficulty=9, size=32)
    assert data == StoredFiles(root=tmp_path / "difficulty_9")
    assert data.class_names == Pathfinder.class_names and data.baseline == "markers"
    with pytest.raises(UsageError, match="made with size 32, not 128"):
        open_files(tmp_path, "pathfinder", difficulty=9, size=128)
    assert isinstance(open_files(tmp_path, "pathfinder"), PathfinderFiles)  # which one was not said
    one = tmp_path / "one"
    make(Pathfinder(difficulty=6, preset="lra32"), out=one, splits={"val": 2}, format="tfrecord")
    assert len(StoredFiles(root=one).source("val")) == 2
    assert open_files(tmp_path / "difficulty_6", "pathfinder").generator.difficulty == 6


def test_featuretracker_has_files_when_they_were_made(tmp_path):
    make(FeatureTracker(frames=4), out=tmp_path, splits={"val": 2})
    assert len(open_files(tmp_path, "featuretracker").source("val")) == 2


def test_a_data_set_is_known_by_its_members():
    class Members:
        splits, class_names, baseline, sample_spec = ("train",), ("a", "b"), "majority", {}
        num_classes: int

        def source(self, split="train", *, size=None, seed=0):
            raise NotImplementedError

    class Fewer:
        splits = ("train",)

    assert isinstance(Members(), DataSet) and not isinstance(Fewer(), DataSet)
    assert isinstance(StoredFiles(), DataSet)  # looked up without reading: it has no folder


def test_import_is_light():
    heavy = ("jax", "numba", "grain", "sklearn", "PIL", "google.protobuf")
    code = f"import sys, cssm.data, cssm.data.augment; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
