import numpy as np
import pytest

from cssm.core.errors import UsageError
from cssm.data import Photos
from cssm.data.photos import PARTS, STRIPS


def test_no_pixel_is_in_two_splits():
    rows = {}
    for split in PARTS:
        source = Photos(size=40).source(split)
        rows[split] = source._top.min(), source._top.max() + 40
        left = source._left - source._label % STRIPS * 128
        assert left.min() >= 0 and (left + 40).max() <= 128
    assert rows["train"][1] <= rows["val"][0] and rows["val"][1] <= rows["test"][0]


def test_samples_are_the_same_every_time_and_classes_equally_many():
    first, again = (Photos().source("val").batch(np.arange(500)) for _ in range(2))
    np.testing.assert_array_equal(first["input"], again["input"])
    assert first["input"].shape == (500, 32, 32, 3) and first["input"].dtype == np.uint8
    assert np.bincount(first["label"]).tolist() == [50] * 10
    assert first["input"].std() > 10


def test_a_crop_larger_than_a_part_is_refused():
    with pytest.raises(UsageError, match="size"):
        Photos(size=81)
