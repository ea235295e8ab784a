"""What is special in each published layout, and what becomes of damaged, foreign and hostile files.

That every layout is read, in its order, is in test_every_dataset.
"""

import logging

import miniatures
import numpy as np
import pytest
from data_helpers import assert_same_batch, validate
from miniatures import flat_record, pathfinder_record, pixels, whole
from PIL import Image

from cssm.core.errors import DataError, UsageError
from cssm.data import Pathfinder
from cssm.data.formats.pathfinder import PathfinderFiles
from cssm.data.formats.pathtracker import PathTrackerFiles
from cssm.data.formats.tfrecord import write_records
from cssm.data.make import make


@pytest.fixture
def png_root(tmp_path):
    return miniatures.pathfinder_png(tmp_path, difficulty=9)


def test_corrupt_images_raise_or_are_left_out(png_root, caplog):
    bad = png_root / "curv_contour_length_9" / "imgs" / "pos" / "sample_03.png"
    bad.write_bytes(bad.read_bytes()[:40])
    at = np.random.RandomState(42).permutation(20)[:16].tolist().index(13)
    with pytest.raises(DataError, match=r"sample_03\.png: not a whole PNG"):
        whole(PathfinderFiles(root=png_root, difficulty=9).source())
    source = PathfinderFiles(root=png_root, difficulty=9, skip_corrupt=True).source()
    with caplog.at_level(logging.WARNING, "cssm.data"):
        batch = source.batch([at, 0, at, 1])
    assert batch["valid"].tolist() == [False, True, False, True]
    assert batch["input"].shape == (4, 20, 20, 3) and not batch["input"][0].any()
    assert len(caplog.records) == 1 and "sample_03.png" in caplog.text
    assert len(source.source.left_out) == 1


def test_images_of_another_size_or_depth(png_root):
    folder = png_root / "curv_contour_length_9" / "imgs" / "neg"
    Image.fromarray(pixels(8, 8)).save(folder / "sample_00.png")
    with pytest.raises(DataError, match=r"sample_\d\d\.png: input of shape .*, other samples have"):
        whole(PathfinderFiles(root=png_root, difficulty=9).source())
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(folder / "sample_00.png")
    with pytest.raises(DataError, match="8 bits a channel"):
        whole(PathfinderFiles(root=png_root, difficulty=9).source())
    with pytest.raises(DataError, match="holds no pathfinder files: looked for difficulty_14"):
        PathfinderFiles(root=png_root, difficulty=14).source()


def test_pathfinder_tfrecord_is_resized_with_its_markers(tmp_path):
    config = Pathfinder(difficulty=9, size=32)
    make(config, out=tmp_path, splits={"train": 4}, format="tfrecord")
    small = PathfinderFiles(root=tmp_path, difficulty=9, size=16)
    assert small.sample_spec["input"].shape == (16, 16, 3) and small.splits == ("train",)
    got, stored = whole(small.source()), whole(config.source(size=4))
    np.testing.assert_array_equal(got["markers"], stored["markers"] / 2)
    for image, original in zip(got["input"], stored["input"], strict=True):
        witness = np.asarray(Image.fromarray(original).resize((16, 16), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(image, witness)
    assert_same_batch(whole(PathfinderFiles(root=tmp_path, difficulty=9).source()), stored)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (pathfinder_record(pixels(4, 4, 3), 2), "label 2, expected 0..1"),
        (pathfinder_record(pixels(4, 4, 3), 1, height=5), r"'image' has 192 bytes, not those of \(5, 4, 3\)"),
        (pathfinder_record(pixels(4, 4, 3), 1, height=2**40), "sizes"),
        (pathfinder_record(pixels(4, 4, 3), 1, width=-4), "sizes"),
        (pathfinder_record(pixels(4, 4, 3), 1, image=b"\0\0\xc0\x7f" * 48), "not normalised"),  # NaN
        (pathfinder_record(pixels(4, 4, 3), 1, image=b"\0\0\x80\x43" * 48), "not normalised"),  # 256.0
        (b"\x0a\x03abc", "not a tf.Example|no feature"),
    ],
)
def test_foreign_records_are_named(tmp_path, record, named):
    folder = tmp_path / "difficulty_14" / "train"
    folder.mkdir(parents=True)
    good = pathfinder_record(pixels(4, 4, 3), 1)
    write_records(folder / "shard_00000.tfrecord", [good, record])
    source = PathfinderFiles(root=tmp_path, layout="tfrecord").source()
    assert source[0]["label"] == 1
    with pytest.raises(DataError, match=rf"shard_00000\.tfrecord, record 1: .*({named})"):
        source[1]
    lenient = PathfinderFiles(root=tmp_path, layout="tfrecord", skip_corrupt=True).source()
    assert lenient.batch([0, 1])["valid"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"../../etc passwd 0 1", r"line 1: the path .* leads out"),
        (b"imgs/0 sample_0.png 0 0\nimgs/0 sample_1.png 1 yes", r"line 2: expected 'folder file number label"),
        (np.arange(300.0).tobytes(), "not text"),
    ],
)
def test_foreign_lra_lists(tmp_path, text, named):
    miniatures.pathfinder_lra(tmp_path)
    (tmp_path / "curv_baseline" / "metadata" / "0.npy").write_bytes(text)
    with pytest.raises(DataError, match=rf"0\.npy.*{named}"):
        PathfinderFiles(root=tmp_path, difficulty=6).source()


def test_lra_has_three_difficulties(tmp_path):
    with pytest.raises(UsageError, match="with layout lra difficulty"):
        validate(PathfinderFiles, root=tmp_path, layout="lra", difficulty=20)


@pytest.mark.parametrize("layout", ["tfrecord", "flat", "npy"])
def test_pathtracker_frames_are_spread(tmp_path, layout):
    getattr(miniatures, f"pathtracker_{layout}")(tmp_path)
    whole_video = PathTrackerFiles(root=tmp_path, layout=layout).source()[0]["input"]
    thin = PathTrackerFiles(root=tmp_path, layout=layout, frames=4)
    at = {6: [0, 2, 3, 5], 8: [0, 2, 5, 7], 64: [0, 21, 42, 63]}[len(whole_video)]
    np.testing.assert_array_equal(thin.source()[0]["input"], whole_video[at])
    assert thin.sample_spec["input"].shape[0] == 4
    with pytest.raises(DataError, match=rf"{len(whole_video)} frames, 65 were asked for"):
        whole(PathTrackerFiles(root=tmp_path, layout=layout, frames=65).source(size=1))


def test_foreign_flat_records(tmp_path):
    video = pixels(8, 4, 4, 3)
    records = [flat_record(video, 0), flat_record(video, 1, label=b"12"), flat_record(video, 1, image=b"abc")]
    miniatures.pathtracker_flat(tmp_path)
    write_records(tmp_path / "test-batch_0--00000-of-00002", records, compression="gzip")
    files = PathTrackerFiles(root=tmp_path, cache=tmp_path / "cache")
    test = files.source("test")
    assert test[0]["input"].shape == (8, 4, 4, 3) and list((tmp_path / "cache").iterdir())
    for i, named in ((1, "expected one byte, 0 or 1"), (2, "3 bytes of image are no frames")):
        with pytest.raises(DataError, match=rf"test-batch_0--00000-of-00002, record {i}: .*{named}"):
            test[i]


def test_the_specification_of_files_that_begin_with_damage(tmp_path):
    """Reading the first record of a GZIP file unpacks no more; skip_corrupt looks for one that can be read."""
    good, bad = flat_record(pixels(8, 4, 4, 3), 1), flat_record(pixels(8, 4, 4, 3), 1, label=b"12")
    for i in range(2):
        write_records(tmp_path / f"train-{i}", [bad, good], compression="gzip")
    with pytest.raises(DataError, match="train-0, record 0: label"):
        _ = PathTrackerFiles(root=tmp_path).sample_spec
    files = PathTrackerFiles(root=tmp_path, skip_corrupt=True)
    assert files.sample_spec["input"].shape == (8, 4, 4, 3) and files.splits == ("train", "val")
    write_records(tmp_path / "train-0", [bad, bad], compression="gzip")
    with pytest.raises(DataError, match="train-0: no record can be read"):
        _ = files.sample_spec


def test_arrays_are_numbered_not_sorted_as_text(tmp_path):
    miniatures.pathtracker_npy(tmp_path, n=11)
    (tmp_path / "1" / "notes.npy").write_bytes(b"mine")
    labels = whole(PathTrackerFiles(root=tmp_path).source("test"))
    np.testing.assert_array_equal(labels["input"], [pixels(64, 4, 4, 3, seed=i) for i in (10, 110)])
    (tmp_path / "few" / "0").mkdir(parents=True)
    (tmp_path / "few" / "1").mkdir()
    for label in (0, 1):
        np.save(tmp_path / "few" / str(label) / f"{label}_sample_0.npy", pixels(4, 4, 4, 3))
    with pytest.raises(DataError, match="too few arrays for a val split"):
        PathTrackerFiles(root=tmp_path / "few").source("val")


@pytest.mark.parametrize("kind", [PathfinderFiles, PathTrackerFiles])
def test_a_folder_of_something_else(tmp_path, kind):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds no path(finder|tracker) files: looked for"):
        kind(root=tmp_path).source()


class Evil:
    def __reduce__(self):
        return print, ("the pickle was run",)


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (lambda p: np.save(p, np.array([Evil()], object), allow_pickle=True), "expected uint8 with 4 axes"),
        (lambda p: np.save(p, np.zeros((4, 4, 3), np.uint8)), "expected uint8 with 4 axes"),
        (lambda p: np.save(p, np.zeros((8, 4, 4, 1), np.uint8)), r"expected \(t, h, w, 3\)"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "truncated or foreign"),
        (lambda p: p.write_bytes(p.read_bytes()[:20]), "not an array file"),
        (lambda p: p.write_bytes(b"PK\x03\x04 a zip"), "not an array file"),
        (lambda p: p.write_bytes(p.read_bytes().replace(b"(64, 4, 4, 3)", b"(9**9,4,4,3) ")), "not an array file"),
        (lambda p: p.write_bytes(p.read_bytes().replace(b"(64, 4, 4, 3)", b"(9999999,4,3)")), "4 axes"),
        (lambda p: p.write_bytes(p.read_bytes().replace(b"(64, 4, 4, 3)", b"(64,4,4,9999)")), "truncated"),
    ],
)
def test_hostile_arrays(tmp_path, write, named, capsys):
    for label in (0, 1):
        (tmp_path / str(label)).mkdir()
        np.save(tmp_path / str(label) / f"{label}_sample_0.npy", pixels(64, 4, 4, 3))
    write(tmp_path / "0" / "0_sample_0.npy")
    source = PathTrackerFiles(root=tmp_path).source("train")
    with pytest.raises(DataError, match=rf"0_sample_0\.npy: .*{named}"):
        source[0]
    assert "pickle" not in capsys.readouterr().out
