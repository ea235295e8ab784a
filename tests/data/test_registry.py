import subprocess
import sys

import pytest

from cssm.core.errors import UnknownNameError, UsageError
from cssm.data import Pathfinder, create_dataset, list_datasets
from cssm.data.make import make


def test_unknown_names_say_what_was_meant():
    with pytest.raises(UnknownNameError, match="did you mean 'pathtracker'"):
        create_dataset("pathtraker")
    with pytest.raises(UnknownNameError, match="did you mean 'frames'"):
        create_dataset("pathtracker", frame=3)


def test_with_data_dir_files_are_read(tmp_path):
    config = Pathfinder(difficulty=9, size=16)
    make(config, out=tmp_path, splits={"val": 2}, format="tfrecord")
    files = create_dataset("pathfinder", data_dir=tmp_path, difficulty=9, layout="tfrecord")
    assert (files.source("val")[1]["input"] == config.source("val", size=2)[1]["input"]).all()
    with pytest.raises(UsageError, match="'imagenet' is read from files: give data_dir"):
        create_dataset("imagenet")
    with pytest.raises(UnknownNameError, match="did you mean 'imagenette'"):
        create_dataset("imagenete", data_dir=tmp_path)


def test_every_dataset_gives_samples():
    for name in list_datasets():
        sample = create_dataset(name).source("train", size=3)[2]
        assert sample["input"].dtype == "uint8" and sample["input"].shape[-1] == 3
        assert sample["label"].shape == () and sample["label"].dtype == "int32"


def test_import_is_light():
    heavy = ("jax", "numba", "grain", "sklearn", "PIL", "google.protobuf")
    code = f"import sys, cssm.data; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
