import numpy as np
import pytest

from cssm.data import TenPhotographs
from cssm.data.ten_photographs import BANDS, COUNTS, NAMES, bands, photographs

pytest.importorskip("skimage")
pytest.importorskip("sklearn")


def test_no_band_is_in_two_splits_and_none_is_left_out():
    used = [band for split in BANDS.values() for band in split]
    assert sorted(used) == list(range(8)) and set(BANDS) == set(COUNTS)


@pytest.mark.parametrize("shape", [(19, 41), (41, 19), (16, 16)], ids=str)
def test_bands_lie_side_by_side_across_the_longer_side(shape):
    picture = np.arange(shape[0] * shape[1] * 3, dtype=np.uint32).reshape(*shape, 3)
    cut = bands(picture)
    long = max(shape) // 8
    for i, band in enumerate(cut):
        along = slice(i * long, (i + 1) * long)
        np.testing.assert_array_equal(band, picture[:, along] if shape[0] < shape[1] else picture[along])


def test_a_crop_is_of_its_band_resized_and_lit():
    """Without light or tint, a crop of a picture that is plain within each band has that band's colour."""
    source = TenPhotographs(size=16).source("val")
    plain = np.repeat(np.arange(8, dtype=np.uint8)[:, None, None, None] * 30, 20, 1)
    source._bands = [np.broadcast_to(plain, (8, 20, 30, 3))[list(BANDS["val"])].copy() for _ in NAMES]
    source._light = np.ones_like(source._light)
    assert (source.batch([0, 7])["input"] == 60).all()
    source._light = np.full_like(source._light, 0.5)
    assert (source.batch([3])["input"] == 30).all()


def test_samples_are_the_same_every_time_and_classes_equally_many():
    first, again = (TenPhotographs(size=32).source("val").batch(np.arange(500)) for _ in range(2))
    np.testing.assert_array_equal(first["input"], again["input"])
    assert first["input"].shape == (500, 32, 32, 3) and first["input"].dtype == np.uint8
    assert np.bincount(first["label"]).tolist() == [50] * 10


def test_the_photographs_are_ten_and_in_colour():
    found = photographs()
    assert len(found) == len(NAMES) == 10 and all(p.ndim == 3 and p.dtype == np.uint8 for p in found)
    assert min(min(p.shape[:2]) for p in found) >= 300
