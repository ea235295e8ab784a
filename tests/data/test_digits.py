import sys

import numpy as np
import pytest
from data_helpers import assert_same_batch, validate

from cssm.cli import main
from cssm.core.errors import UsageError
from cssm.data import Digits, open_files
from cssm.data.formats.manifest import verify
from cssm.data.make import make

pytest.importorskip("sklearn")


def test_splits_are_disjoint_and_complete():
    sources = [Digits().source(split) for split in ("train", "val", "test")]
    assert [len(s) for s in sources] == [1257, 270, 270]
    assert sorted(np.concatenate([s.indices for s in sources])) == list(range(1797))
    labels = np.concatenate([s.batch(np.arange(len(s)))["label"] for s in sources])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_zoom_repeats_pixels():
    small, large = Digits().source("val", size=3), Digits(size=32).source("val", size=3)
    assert len(large) == 3 and large[2]["input"].shape == (32, 32, 3)
    np.testing.assert_array_equal(large[2]["input"][::4, ::4], small[2]["input"])
    assert small.batch([0, 1, 2])["input"].max() >= 240


def test_made_into_shards_they_are_the_same(tmp_path):
    """By default all of them, and a run reads them back with --data-dir."""
    assert main(["data", "make", "digits", "--out", str(tmp_path / "made"), "--seed", "3"]) == 0
    data = open_files(tmp_path / "made", "digits")
    assert data.class_names == Digits.class_names and data.baseline == "majority" and verify(tmp_path / "made") == 1797
    for split in ("train", "val", "test"):
        stored, own = data.source(split), Digits().source(split, seed=3)
        assert_same_batch(stored.batch(np.arange(len(stored))), own.batch(np.arange(len(own))))


def test_too_many_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="271 samples were asked for, the files hold 270"):
        make(Digits(), out=tmp_path / "made", splits={"train": 5, "val": 271})
    assert not list(tmp_path.iterdir())


def test_errors(monkeypatch):
    with pytest.raises(UsageError, match="multiple of 8"):
        validate(Digits, size=20)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match="pip install scikit-learn"):
        Digits().source("val")
