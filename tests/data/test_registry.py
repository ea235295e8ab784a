import subprocess
import sys

import pytest

from cssm.core.errors import UnknownNameError
from cssm.data import create_dataset, list_datasets


def test_unknown_names_say_what_was_meant():
    with pytest.raises(UnknownNameError, match="did you mean 'pathtracker'"):
        create_dataset("pathtraker")
    with pytest.raises(UnknownNameError, match="did you mean 'frames'"):
        create_dataset("pathtracker", frame=3)


def test_every_dataset_gives_samples():
    for name in list_datasets():
        sample = create_dataset(name).source("train", size=3)[2]
        assert sample["input"].dtype == "uint8" and sample["input"].shape[-1] == 3
        assert sample["label"].shape == () and sample["label"].dtype == "int32"


def test_import_is_light():
    code = "import sys, cssm.data; print([m for m in ('jax', 'numba', 'grain', 'sklearn') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
