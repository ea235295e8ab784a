"""Miniature copies of every published layout, written by this file's own code, read back through Sources."""

import logging

import numpy as np
import pytest
from data_helpers import validate
from PIL import Image

from cssm.core.errors import DataError, UsageError
from cssm.data.formats.example import encode_example
from cssm.data.formats.pathfinder import PathfinderFiles
from cssm.data.formats.pathtracker import PathTrackerFiles
from cssm.data.formats.tfrecord import write_records
from cssm.data.source import IMAGENET_MEAN, IMAGENET_STD


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def normalised(image):
    return ((image.astype(np.float32) / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)).astype("<f4")


def whole(source):
    return source.batch(np.arange(len(source)))


@pytest.fixture
def png_root(tmp_path):
    for name, value in (("neg", 10), ("pos", 200)):
        folder = tmp_path / "curv_contour_length_9" / "imgs" / name
        folder.mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((20, 20), value + i, np.uint8)).save(folder / f"sample_{i}.png")
    return tmp_path


def test_pathfinder_png_splits(png_root):
    files = PathfinderFiles(root=png_root, difficulty=9)
    order = np.random.RandomState(42).permutation(20)  # of the listing, negatives first
    expected = {"train": order[:16], "val": order[16:18], "test": order[18:]}
    for split, indices in expected.items():
        batch = whole(files.source(split))
        assert batch["label"].tolist() == [int(i >= 10) for i in indices]
        assert batch["input"][:, 0, 0, 0].tolist() == [10 + i if i < 10 else 190 + i for i in indices]
    assert batch["input"].shape == (2, 20, 20, 3) and batch["input"].dtype == np.uint8
    assert PathfinderFiles(root=png_root, difficulty=9, size=12).source()[0]["input"].shape == (12, 12, 3)
    assert len(files.source("train", size=5)) == 5
    with pytest.raises(UsageError, match="17 samples were asked for, the files hold 16"):
        files.source("train", size=17)


def test_corrupt_images_raise_or_are_left_out(png_root, caplog):
    bad = png_root / "curv_contour_length_9" / "imgs" / "pos" / "sample_3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    at = np.random.RandomState(42).permutation(20)[:16].tolist().index(13)
    with pytest.raises(DataError, match=r"sample_3\.png: not a whole PNG"):
        whole(PathfinderFiles(root=png_root, difficulty=9).source())
    source = PathfinderFiles(root=png_root, difficulty=9, skip_corrupt=True).source()
    with caplog.at_level(logging.WARNING, "cssm.data"):
        batch = source.batch([at, 0, at, 1])
    assert batch["valid"].tolist() == [False, True, False, True]
    assert batch["input"].shape == (4, 20, 20, 3) and not batch["input"][0].any()
    assert len(caplog.records) == 1 and "sample_3.png" in caplog.text
    assert len(source.source.left_out) == 1


def test_images_of_another_size_or_depth(png_root):
    folder = png_root / "curv_contour_length_9" / "imgs" / "neg"
    Image.fromarray(pixels(8, 8)).save(folder / "sample_0.png")
    with pytest.raises(DataError, match=r"sample_\d\.png: input of shape .*, other samples have"):
        whole(PathfinderFiles(root=png_root, difficulty=9).source())
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(folder / "sample_0.png")
    with pytest.raises(DataError, match="8 bits a channel"):
        whole(PathfinderFiles(root=png_root, difficulty=9).source())
    with pytest.raises(DataError, match="no such folder, expected Pathfinder images"):
        PathfinderFiles(root=png_root, difficulty=14).source()


def pathfinder_record(image, label, /, **changes):
    height, width, channels = image.shape
    sizes = {"height": height, "width": width, "channels": channels}
    return encode_example({"image": normalised(image).tobytes(), "label": label, **sizes, **changes})


def test_pathfinder_tfrecord(tmp_path):
    images = [pixels(6, 7, 3, seed=i) for i in range(5)]
    folder = tmp_path / "difficulty_14" / "val"
    folder.mkdir(parents=True)
    for shard, part in enumerate((range(3), range(3, 5))):
        records = [pathfinder_record(images[i], i % 2) for i in part]
        write_records(folder / f"shard_{shard:05d}.tfrecord", records)
    batch = whole(PathfinderFiles(root=tmp_path, layout="tfrecord").source("val"))
    np.testing.assert_array_equal(batch["input"], np.stack(images))  # exact through float32 and back
    assert batch["label"].tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (pathfinder_record(pixels(4, 4, 3), 2), "label 2, expected 0 or 1"),
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


def test_lra(tmp_path):
    base = tmp_path / "curv_baseline"
    (base / "imgs" / "0").mkdir(parents=True)
    (base / "metadata").mkdir()
    lines = []
    for i in range(10):
        Image.fromarray(np.full((32, 32), 20 * i, np.uint8)).save(base / "imgs" / "0" / f"sample_{i}.png")
        lines.append(f"imgs/0 sample_{i}.png {i} {i % 2} 1.8 6 2 5 2 3 1")
    (base / "metadata" / "0.npy").write_text("\n".join(lines))
    files = PathfinderFiles(root=tmp_path, layout="lra", difficulty=6)
    batches = [whole(files.source(split)) for split in ("train", "val", "test")]
    assert [len(b["label"]) for b in batches] == [8, 1, 1]
    for batch in batches:
        assert (batch["label"] == batch["input"][:, 0, 0, 0] // 20 % 2).all()
    (base / "metadata" / "0.npy").write_text("../../etc passwd 0 1")
    with pytest.raises(DataError, match=r"0\.npy, line 1: the path .* leads out"):
        files.source()
    (base / "metadata" / "0.npy").write_text(f"{lines[0]}\nimgs/0 sample_1.png 1 yes")
    with pytest.raises(DataError, match=r"0\.npy, line 2: expected 'folder file number label"):
        files.source()
    np.save(base / "metadata" / "0.npy", np.arange(300, dtype=np.float64))
    with pytest.raises(DataError, match="not text"):
        files.source()
    with pytest.raises(UsageError, match="difficulty of LRA"):
        validate(PathfinderFiles, root=tmp_path, layout="lra", difficulty=20)


def test_pathtracker_tfrecord(tmp_path):
    videos = [pixels(6, 4, 5, 3, seed=i) for i in range(3)]
    (tmp_path / "train").mkdir()
    sizes = {"num_frames": 6, "height": 4, "width": 5, "channels": 3}
    records = [encode_example({"video": normalised(v).tobytes(), "label": 1, **sizes}) for v in videos]
    write_records(tmp_path / "train" / "shard_0000.tfrecord", records)
    batch = whole(PathTrackerFiles(root=tmp_path).source())
    np.testing.assert_array_equal(batch["input"], np.stack(videos))
    thin = whole(PathTrackerFiles(root=tmp_path, frames=4).source())
    np.testing.assert_array_equal(thin["input"], np.stack(videos)[:, [0, 2, 3, 5]])  # round(0, 1.67, 3.33, 5)
    with pytest.raises(DataError, match="record 0: 6 frames, 7 were asked for"):
        whole(PathTrackerFiles(root=tmp_path, frames=7).source())


def test_pathtracker_flat(tmp_path):
    def record(i, **changes):
        video = pixels(8, 4, 4, 3, seed=i).tobytes()
        return encode_example({"image": video, "label": bytes([i % 2]), "height": 4, "width": 4, **changes})

    for i in range(20):
        write_records(tmp_path / f"train-batch_0--{i:05d}-of-00020", [record(i)], compression="gzip")
    bad = [record(0), record(1, label=b"12"), record(2, image=b"abc")]
    write_records(tmp_path / "test-batch_0--00000-of-00001", bad, compression="gzip")
    files = PathTrackerFiles(root=tmp_path, layout="flat", cache=tmp_path / "cache")
    train, val = whole(files.source("train")), whole(files.source("val"))
    assert len(train["label"]) == 18 and train["label"].tolist() == [0, 1] * 9
    np.testing.assert_array_equal(val["input"], [pixels(8, 4, 4, 3, seed=i) for i in (18, 19)])
    test = files.source("test")
    assert test[0]["input"].shape == (8, 4, 4, 3)
    for i, named in ((1, "expected one byte, 0 or 1"), (2, "3 bytes of image are no frames")):
        with pytest.raises(DataError, match=rf"test-batch_0--00000-of-00001, record {i}: .*{named}"):
            test[i]


def test_pathtracker_npy(tmp_path):
    for label in (0, 1):
        (tmp_path / str(label)).mkdir()
        for i in range(5):
            np.save(tmp_path / str(label) / f"{label}_sample_{i}.npy", pixels(64, 4, 4, 3, seed=10 * label + i))
    files = PathTrackerFiles(root=tmp_path, layout="npy", frames=32)
    order = np.random.RandomState(42).permutation(10)
    at = np.round(np.linspace(0, 63, 32)).astype(int)
    batch = whole(files.source("train"))
    for video, label, i in zip(batch["input"], batch["label"], order, strict=False):
        assert label == i // 5
        np.testing.assert_array_equal(video, pixels(64, 4, 4, 3, seed=10 * label + i % 5)[at])


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
    source = PathTrackerFiles(root=tmp_path, layout="npy").source("train")
    with pytest.raises(DataError, match=rf"0_sample_0\.npy: .*{named}"):
        source.source.batch([0])
    assert "pickle" not in capsys.readouterr().out
