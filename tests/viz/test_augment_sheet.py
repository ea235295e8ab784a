import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from cssm.core.errors import UsageError
from cssm.data import PathTracker, Tracks
from cssm.data.augment import FlipShift, Photo
from cssm.data.source import Source
from cssm.viz.augment_sheet import augment_sheet

KEY = jax.random.key(0)


@dataclasses.dataclass
class Flat(Source):
    """Pictures of one colour each, of three classes in turn; every third cannot be read where `broken`."""

    size: int = 16
    broken: bool = False

    def __len__(self):
        return 12

    def batch(self, indices):
        indices = np.asarray(indices)
        image = np.broadcast_to(
            (20 * indices[:, None, None, None]).astype(np.uint8), (len(indices), *[self.size] * 2, 3)
        )
        out = {"input": image, "label": (indices % 3).astype(np.int32)}
        return out | {"valid": indices % 3 != 0} if self.broken else out


def panels(path, rows, columns, tile=128):
    """(rows, columns, tile, tile, 3): found by their places."""
    sheet = np.asarray(Image.open(path).convert("RGB"))
    top, right = sheet.shape[0] - 20 - rows * (tile + 6) + 6, sheet.shape[1] - 20 - tile
    lefts = [right - k * (tile + 6) for k in range(columns - 1)][::-1]
    lefts = [lefts[0] - tile - 18, *lefts]
    return np.stack([[sheet[top + i * (tile + 6) :, x:][:tile, :tile] for x in lefts] for i in range(rows)])


def test_rows_are_samples_and_columns_draws(tmp_path):
    """Samples of the classes in turn; the first column is the sample, the others are of the keys seed, seed + 1."""
    path = augment_sheet(Flat(), FlipShift(shift=3), tmp_path / "new" / "a.png", samples=4, draws=2, title="T", seed=5)
    found = panels(path, 4, 3)
    assert found[:, 0].mean((1, 2, 3)).tolist() == [0, 20, 40, 60]
    batch = Flat().batch([0, 1, 2, 3])
    for i in (0, 1):
        want = FlipShift(shift=3)(jax.random.key(5 + i), batch)["input"]
        np.testing.assert_array_equal(found[:, 1 + i], np.asarray(want).repeat(8, 1).repeat(8, 2))


def test_normalised_pixels_are_shown_as_colours(tmp_path):
    mixed = Photo(cutmix=1.0, classes=3, flip=0.0)
    found = panels(augment_sheet(Flat(), mixed, tmp_path / "a.png", samples=2, draws=3), 2, 4)
    assert set(np.unique(found)) == {0, 20}  # the two of the batch, in boxes of each other
    assert (found[0, 1:] == 20).any() and (found[0, 1:] == 0).any()


def test_crops_of_another_size_and_clips(tmp_path):
    path = augment_sheet(Flat(), Photo(crop_scale=0.5, crop_size=9), tmp_path / "a.png", samples=3, draws=1)
    assert panels(path, 3, 2)[:, 1].mean((1, 2, 3)).tolist() == [0, 20, 40]
    source = PathTracker(frames=8).source("val", size=6)
    path = augment_sheet(source, FlipShift(flip=0.0), tmp_path / "b.png", samples=2, draws=1, tile=32)
    found = panels(path, 2, 2, 32)
    assert (found[:, 0] == found[:, 1]).all()
    assert any((found[0, 0] == clip[4]).all() for clip in source.batch(np.arange(6))["input"])


def test_what_cannot_be_read_is_left_out(tmp_path):
    found = panels(augment_sheet(Flat(broken=True), FlipShift(), tmp_path / "a.png", samples=3, draws=1), 3, 2)
    assert found[:, 0].mean((1, 2, 3)).tolist() == [20, 40, 80]


@pytest.mark.parametrize("options", [{"samples": 0}, {"draws": 65}])
def test_counts_out_of_range(tmp_path, options):
    with pytest.raises(UsageError, match="give 1 to 64"):
        augment_sheet(Flat(), FlipShift(), tmp_path / "a.png", **options)


def test_videos_without_labels(tmp_path):
    source = Tracks(frames=4, size=32).source("val", size=3)
    path = augment_sheet(source, FlipShift(flip=0.0), tmp_path / "a.png", samples=2, draws=1, tile=32, names=())
    found = panels(path, 2, 2, 32)
    assert (found[:, 0] == found[:, 1]).all() and (found[0, 0] == source[0]["input"][2]).all()
