"""cssm data pack: photographs into shards, read back as every data set is, and what can go wrong with them."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time

import miniatures
import numpy as np
import pytest
from data_helpers import assert_same_batch, killed_after
from miniatures import encoded, pixels, put, whole
from PIL import Image

from cssm.cli import main
from cssm.core.errors import DataError, UsageError
from cssm.data import (
    ImageFolder,
    ImageNet,
    Imagenette,
    PackedImages,
    create_dataset,
    moved,
    open_files,
)
from cssm.data.formats.arrayrecord import ArrayRecordFiles
from cssm.data.formats.example import Example
from cssm.data.formats.images import decode_image
from cssm.data.formats.manifest import verify
from cssm.data.pack import pack, packed_image


def jpeg(width, height, mode="RGB", **options):
    small = Image.fromarray(pixels(4, 4, 3, seed=width)).resize((width, height), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    small.convert(mode).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def size_of(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG" and image.mode == "RGB" and not image.getexif()
        return image.size


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_the_short_side_fits_and_small_ones_stay():
    assert size_of(packed_image(jpeg(90, 60), "here", 30, 90)) == (45, 30)
    assert size_of(packed_image(jpeg(61, 100), "here", 30, 90)) == (30, 49)
    assert packed_image(jpeg(40, 30), "here", 30, 90) == jpeg(40, 30)  # the very bytes
    assert size_of(packed_image(jpeg(20, 10, exif=turned()), "here", 30, 90)) == (10, 20)
    assert size_of(packed_image(jpeg(90, 60, exif=turned()), "here", 30, 90)) == (30, 45)
    for mode in ("L", "CMYK"):
        assert size_of(packed_image(jpeg(20, 10, mode), "here", 30, 90)) == (20, 10)
    for mode in ("P", "RGBA", "L", "1"):
        assert size_of(packed_image(encoded(200, mode=mode, kind="PNG"), "here", 256, 90)) == (40, 30)


def test_what_is_packed_looks_the_same():
    data = jpeg(90, 60)
    original = decode_image(data, "here", size=24, crop=True).astype(int)
    for quality, most in ((90, 3.0), (20, 12.0)):
        got = decode_image(packed_image(data, "here", 30, quality), "here", size=24, crop=True)
        assert np.abs(got - original).mean() < most
    assert len(packed_image(data, "here", 30, 20)) < len(packed_image(data, "here", 30, 90))


def test_what_cannot_be_packed_is_named():
    with pytest.raises(DataError, match="here: not a whole PNG or JPEG"):
        packed_image(jpeg(40, 30)[:-100], "here", 30, 90)  # small, to be copied, but not whole
    tall = Image.new("RGB", (8, 66_000))
    out = io.BytesIO()
    tall.save(out, "PNG")
    with pytest.raises(DataError, match="here: 8 x 66000 px do not fit a JPEG"):
        packed_image(out.getvalue(), "here", 8, 90)


SETS = {
    "images": (miniatures.images_split, ImageFolder, ("train", "val", "test")),
    "imagenette": (miniatures.imagenette, Imagenette, ("train", "val")),
    "imagenet": (miniatures.imagenet_folder, ImageNet, ("train", "val")),
}


@pytest.mark.parametrize("name", SETS)
def test_packed_sets_are_opened_by_their_names(tmp_path, name, capsys):
    files, kind, splits = SETS[name]
    (tmp_path / "own").mkdir()
    root = files(tmp_path / "own")
    command = ["data", "pack", name, "--data-dir", root, "--output", tmp_path / "s", "--short-side", 20]
    assert main([str(word) for word in [*command, "--shard-size", 7]]) == 0
    out = capsys.readouterr().out
    assert out.startswith("packed ") and "left out" not in out
    assert verify(tmp_path / "s") == sum(len(kind(root=root).source(split)) for split in splits)
    data, own = create_dataset(name, data_dir=tmp_path / "s", size=16), kind(root=root, size=16)
    assert type(data) is PackedImages and data.class_names == own.class_names and data.splits == splits
    for split in splits:
        packed, straight = whole(data.source(split)), whole(own.source(split))
        np.testing.assert_array_equal(packed["label"], straight["label"])
        np.testing.assert_allclose(packed["input"], straight["input"], atol=1)  # of one grey level each
    assert "left_out" not in json.loads((tmp_path / "s" / "metadata.json").read_text())
    assert size_of(record(tmp_path / "s" / "train" / "shard_00000.arrayrecord", 0).bytes("image")) == (27, 20)
    if name == "imagenet":  # its own reader knows the records
        assert_same_batch(whole(ImageNet(root=tmp_path / "s", size=16).source("val")), packed)
    others = {"images", "packed", name}
    for other in ("images", "packed", "imagenette", "imagenet"):
        if other in others:
            assert open_files(tmp_path / "s", other, size=16) == data
        else:
            with pytest.raises(UsageError, match=f"is of {name}, not {other}: give --dataset {name}, or images"):
                open_files(tmp_path / "s", other)


def record(path, i):
    return Example(ArrayRecordFiles([path]).read(i), str(path))


def test_options_of_reading_are_those_of_every_set(tmp_path):
    miniatures.imagenette(tmp_path)
    pack(Imagenette(root=tmp_path, labels="imagenet"), out=tmp_path / "s", short_side=24)
    data = open_files(tmp_path / "s", "imagenette", size=16, crop_pct=0.8, random_crop=0.3, holdout=0.25)
    assert data.num_classes == 1000 and data.splits == ("train", "val", "test")
    assert [len(data.source(split)) for split in data.splits] == [60, 20, 20]
    source, draws = data.source("train"), np.arange(4, dtype=np.uint64)
    assert_same_batch(source.drawn(range(4), draws), source.drawn(range(4), draws))
    assert data.view().short == 20


def test_files_may_be_moved_into_shards(tmp_path):
    """A run on folders goes on from the shards: `cssm eval RUN --data-dir shards`."""
    (tmp_path / "own").mkdir()
    data = Imagenette(root=miniatures.imagenette(tmp_path / "own"), size=16, crop_pct=0.9, holdout=0.25)
    folder = pack(Imagenette(root=data.root), out=tmp_path / "s", short_side=20)
    there = moved(data, folder)
    assert there == PackedImages(root=folder, size=16, crop_pct=0.9, holdout=0.25)
    assert moved(there, folder) == there and moved(data, data.root) == data
    np.testing.assert_array_equal(whole(there.source("val"))["label"], whole(data.source("val"))["label"])
    with pytest.raises(UsageError, match="was packed with labels own, not imagenet: pack it again"):
        moved(Imagenette(labels="imagenet"), folder)
    with pytest.raises(UsageError, match="is of imagenette, not imagenet: give --dataset imagenette"):
        moved(ImageNet(), folder)


def test_holdout_and_packed_sets_are_refused(tmp_path):
    miniatures.imagenette(tmp_path)
    with pytest.raises(UsageError, match=r"holdout 0\.1 is for reading"):
        pack(Imagenette(root=tmp_path, holdout=0.1), out=tmp_path / "s")
    folder = pack(Imagenette(root=tmp_path), out=tmp_path / "s", splits=("val",))
    assert open_files(folder, "images").splits == ("val",)
    with pytest.raises(UsageError, match="is packed already"):
        pack(PackedImages(root=folder), out=tmp_path / "t")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"short_side": 7}, r"short_side 7 is out of range: choose 8\.\.4096"),
        ({"short_side": 4097}, "short_side 4097"),
        ({"quality": 101}, r"quality 101 is out of range: choose 1\.\.100"),
        ({"shard_size": 0}, "shard_size 0"),
        ({"threads": 0}, "threads 0"),
        ({"splits": ("valid",)}, "split 'valid' is unknown: choose one of train, val"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, options, named):
    miniatures.imagenette(tmp_path)
    with pytest.raises(UsageError, match=named):
        pack(Imagenette(root=tmp_path), out=tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def corrupted(root):
    """12 photographs; ant/1 and bee/2 are cut off."""
    miniatures.class_folders(root / "train", ("ant", "bee"), 6, levels=1)
    for name in ("ant/01.png", "bee/02.png"):
        path = root / "train" / name
        path.write_bytes(path.read_bytes()[:60])
    return root


def test_corrupt_photographs(tmp_path, caplog):
    root = corrupted(tmp_path / "own")
    with pytest.raises(DataError, match=r"ant.01\.png: not a whole PNG or JPEG"):
        pack(ImageFolder(root=root), out=tmp_path / "strict", shard_size=4)
    with caplog.at_level(logging.WARNING, "cssm.data"):
        folder = pack(ImageFolder(root=root, skip_corrupt=True), out=tmp_path / "s", shard_size=4)
    said = [message for message in caplog.messages if message.startswith("left out")]
    assert len(said) == 2 and "01.png" in said[0]
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["train_samples"] == 10 and [s["samples"] for s in metadata["splits"]["train"]] == [3, 3, 4]
    assert [message.partition(": ")[0][-10:] for message in metadata["left_out"]["train"]] == [
        "ant/01.png",
        "bee/02.png",
    ]
    batch = whole(open_files(folder, "images", size=8).source("train"))
    assert batch["label"].tolist() == [0, 1, 1, 0, 0, 1, 0, 1, 0, 1] and "valid" not in batch


def test_a_shard_of_which_nothing_is_left(tmp_path):
    root = tmp_path / "own"
    miniatures.class_folders(root / "train", ("ant",), 6, levels=1)
    for k in (2, 3):
        put(root / "train" / "ant" / f"{k:02d}.png", b"no picture")
    data = ImageFolder(root=root, skip_corrupt=True)
    for _ in range(2):  # and once more, when all is there
        folder = pack(data, out=tmp_path / "s", shard_size=2)
    assert len(list(folder.rglob("*.arrayrecord"))) == 2 and verify(folder) == 4
    assert len(open_files(folder, "images").source("train")) == 4
    for k in range(6):
        put(root / "train" / "ant" / f"{k:02d}.png", b"no picture")
    with pytest.raises(DataError, match=r"none of the 6 samples of train can be read, the first: .*00\.png"):
        pack(data, out=tmp_path / "t", shard_size=2)


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    data = ImageFolder(root=corrupted(tmp_path / "own"), skip_corrupt=True)
    straight = pack(data, out=tmp_path / "straight", shard_size=2, threads=1)
    written = killed_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        pack(data, out=tmp_path / "broken", shard_size=2)
    with pytest.raises(DataError, match="a set that is being made has none yet"):
        PackedImages(root=tmp_path / "broken").source("train")
    pack(data, out=tmp_path / "broken", shard_size=2, threads=3)
    assert len(written) == 4 + 3  # three of six shards were kept
    assert bytes_of(tmp_path / "broken") == bytes_of(straight)
    with pytest.raises(UsageError, match="is of a set with short_side 256, not 32: choose another folder"):
        pack(data, out=straight, shard_size=2, short_side=32)
    first = tmp_path / "own" / "train" / "ant" / "00.png"
    renamed = first.rename(first.with_name("000.png"))
    with pytest.raises(UsageError, match=r"is of a set with files .*: choose another folder"):
        pack(data, out=straight, shard_size=2)
    renamed.rename(first)
    with pytest.raises(UsageError, match="is of a set with dataset images, not imagenette"):
        pack(Imagenette(root=miniatures.imagenette(tmp_path / "n")), out=straight)


@pytest.mark.slow
def test_kill_minus_nine(tmp_path):
    """A real process is killed between shards; the second run gives the files of an undisturbed one."""
    for k in range(300):
        put(tmp_path / "own" / "train" / "ant" / f"{k:03d}.jpg", jpeg(900 + k, 600))
    code = (
        "import sys; from pathlib import Path; from cssm.data import ImageFolder; from cssm.data.pack import pack\n"
        "pack(ImageFolder(root=Path(sys.argv[1])), out=Path(sys.argv[2]), shard_size=10)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "own"), str(tmp_path / "a")])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("a/train/*.arrayrecord"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= len((tmp_path / "a" / "metadata.partial.jsonl").read_text().splitlines()) < 31
    for folder in ("a", "straight"):
        pack(ImageFolder(root=tmp_path / "own"), out=tmp_path / folder, shard_size=10)
    assert {k: v for k, v in bytes_of(tmp_path / "a").items() if ".part" not in k} == bytes_of(tmp_path / "straight")


@pytest.fixture
def shards(tmp_path):
    root = tmp_path / "own"
    miniatures.class_folders(root / "train", ("ant", "bee"), 6, levels=1)
    return pack(ImageFolder(root=root), out=tmp_path / "s", shard_size=4)


def test_a_missing_shard(shards):
    """A set copied from another machine without one of its files."""
    path = shards / "train" / "shard_00001.arrayrecord"
    path.unlink()
    for read in (verify, lambda root: open_files(root, "images").source("train")):
        with pytest.raises(DataError, match=rf"{path}: missing, .*metadata\.json lists it: copy it again, or write"):
            read(shards)


def test_a_truncated_shard(shards):
    path = shards / "train" / "shard_00001.arrayrecord"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{path}: not a whole shard, \d+ bytes, metadata\.json lists \d+: copy it"):
        open_files(shards, "images").source("train")
    with pytest.raises(DataError, match=f"{path}: its checksum differs"):
        verify(shards)
    lenient = open_files(shards, "images", size=8, skip_corrupt=True).source("train")
    assert len(lenient) == 8 and whole(lenient)["valid"].all()


def test_a_damaged_record(shards):
    """Bytes turned over: sizes and counts are right, the format's own hashes are not."""
    path = shards / "train" / "shard_00001.arrayrecord"
    data = bytearray(path.read_bytes())
    at = data.find(b"\xff\xd8\xff") + 200
    data[at : at + 50] = bytes(50)
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{path}, record 0"):
        whole(open_files(shards, "images", size=8).source("train"))
    with pytest.raises(DataError, match=f"{path}: its checksum differs"):
        verify(shards)
    assert main(["data", "verify", str(shards)]) == 1


def test_a_label_of_no_class(shards):
    metadata = json.loads((shards / "metadata.json").read_text())
    (shards / "metadata.json").write_text(json.dumps({**metadata, "class_names": ["ant"]}))
    with pytest.raises(DataError, match=r"shard_00000.arrayrecord, record 1: label 1, expected 0\.\.0"):
        whole(open_files(shards, "images", size=8).source("train"))
    for names in ([], "ant", [1, 2], None):
        (shards / "metadata.json").write_text(json.dumps({**metadata, "class_names": names}))
        with pytest.raises(DataError, match="not the metadata of a made set"):
            PackedImages(root=shards).source("train")


def test_no_such_split(shards):
    with pytest.raises(UsageError, match="a packed set has no split 'val': it has train"):
        open_files(shards, "images").source("val")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["images", "--output", "x"], "images is read from files: give --data-dir"),
        (["digits", "--output", "x"], "digits has no photographs of its own; it can pack imagenet, imagenette, images"),
        (["images", "--data-dir", "none", "--output", "x"], "no folder none"),
        (["images", "--data-dir", "own"], "--output"),
        (["images", "--data-dir", "own", "--output", "x", "--crop-pct", "0.9"], "--crop-pct"),
        (["images", "--data-dir", "own", "--output", "x", "--short-side", "5"], "short_side 5 is out of range"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(argv, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    miniatures.class_folders(tmp_path / "own" / "train", ("ant",), 3)
    assert main(["data", "pack", *argv]) in (1, 2)
    err = capsys.readouterr().err.strip()
    assert says in err and len(err.splitlines()) == 1
    assert not (tmp_path / "x").exists()
