"""ImageFolder, Imagenette and ImageNet in miniature, with grey, palette, CMYK and broken files."""

import io
import zlib

import miniatures
import numpy as np
import pytest
from data_helpers import assert_same_batch
from miniatures import encoded, put, whole
from PIL import Image

from cssm.core.errors import DataError, UsageError
from cssm.data.formats.arrayrecord import write_array_records
from cssm.data.formats.example import encode_example
from cssm.data.formats.imagefolder import ImageFolder, Imagenette
from cssm.data.formats.imagenet import ImageNet
from cssm.data.formats.images import decode_image
from cssm.data.formats.tfrecord import write_records


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")]
)
def test_every_kind_of_pixel_becomes_rgb(mode, kind):
    image = decode_image(encoded(255, mode=mode, kind=kind), "here", size=16, crop=True)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8 and image.min() > 250


def test_crop_keeps_the_aspect_ratio():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    out = io.BytesIO()
    Image.fromarray(wide).save(out, "PNG")
    assert decode_image(out.getvalue(), "here", size=10, crop=True)[:, 1:-1].min() > 200
    assert decode_image(out.getvalue(), "here", size=10)[:, 0].max() == 0
    assert decode_image(out.getvalue(), "here").shape == (20, 60, 3)


@pytest.mark.parametrize("data", [b"", b"GIF89a", encoded()[:200], b"\x89PNG\r\n\x1a\n" + b"\0" * 30], ids=len)
def test_broken_images_are_named(data):
    with pytest.raises(DataError, match="f, record 3: not a whole PNG or JPEG"):
        decode_image(data, "f, record 3")


def test_other_formats_and_giants_are_refused():
    with pytest.raises(DataError, match="not a whole PNG or JPEG"):
        decode_image(encoded(kind="BMP"), "here")
    giant = bytearray(encoded(kind="PNG"))
    giant[16:24] = (60000).to_bytes(4, "big") * 2
    giant[29:33] = zlib.crc32(bytes(giant[12:29])).to_bytes(4, "big")
    with pytest.raises(DataError, match=r"60000 x 60000 px, more than|not a whole PNG .*exceeds"):
        decode_image(bytes(giant), "here")


SPLITS = ("train", "val", "test")


def test_one_s_own_photographs(tmp_path):
    """Phones write .JPG and cameras all shapes; the class is the folder."""
    for name, value in (("bee", 20), ("ant", 200)):
        for i, size in enumerate(((60, 40), (40, 60), (50, 50))):
            put(tmp_path / name / f"IMG_{i}.JPG", encoded(value, size=size))
    (tmp_path / ".thumbnails").mkdir()
    data = ImageFolder(root=tmp_path, size=16)
    assert data.class_names == ("ant", "bee") and data.splits == ("train", "val", "test")
    for split in data.splits:  # three of a class are the fewest: one for each split
        batch = whole(data.source(split))
        assert batch["label"].tolist() == [0, 1]
        assert np.allclose(batch["input"][:, 8, 8, 0], [200, 20], atol=3)
    (tmp_path / "ant" / "IMG_2.JPG").unlink()
    with pytest.raises(DataError, match="ant: 2 images, train, val and test need at least 3"):
        data.source()


def test_photographs_are_turned_upright(tmp_path):
    """EXIF orientation 6: the camera was turned to the right, so that the stored left side is the top."""
    stored = np.zeros((20, 20, 3), np.uint8)
    stored[:, :10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.fromarray(stored).save(out, "JPEG", exif=exif)
    for split in ("train", "val"):
        put(tmp_path / split / "ant" / "0.jpg", out.getvalue())
    image = ImageFolder(root=tmp_path, size=20).source()[0]["input"]
    assert image[:8].min() > 200 and image[12:].max() < 50
    assert decode_image(out.getvalue(), "here")[:8].min() > 200


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_data_turn_nothing():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A], exif[0x8769] = 6, "Maker", (72, 1), {0x9003: "2020:01:01 00:00:00"}
    out = io.BytesIO()
    Image.new("RGB", (20, 20)).save(out, "JPEG", exif=exif)
    end, rng = out.getvalue().index(b"Exif") + len(exif.tobytes()), np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(out.getvalue())
        for at in rng.integers(20, end, 4):
            damaged[at] = rng.integers(256)
        try:
            assert decode_image(bytes(damaged), "here").shape == (20, 20, 3)
        except DataError as error:  # the bytes around them
            assert str(error).startswith("here: ")


def test_classes_come_from_train(tmp_path):
    miniatures.images_split(tmp_path)
    put(tmp_path / "val" / "dog" / "0.jpg", encoded())
    data = ImageFolder(root=tmp_path, size=8)
    with pytest.raises(DataError, match=r"val: other class folders, unknown: dog: expected a folder for each of the 3"):
        data.source("val")
    (tmp_path / "test" / "bee").rename(tmp_path / "test" / "wasp")
    with pytest.raises(DataError, match=r"test: other class folders, unknown: wasp; missing: bee: expected"):
        data.source("test")
    (tmp_path / "test" / "wasp").rename(tmp_path / "test" / "bee")
    assert len(data.source("test")) == 9
    (tmp_path / "train").rename(tmp_path / "hidden")
    with pytest.raises(DataError, match="has val and test but no train folder"):
        data.source("train")


def test_classes_of_imagenet_and_imagenette_are_those_of_train(tmp_path):
    miniatures.imagenet_folder(tmp_path / "net")
    (tmp_path / "net" / "val" / "n02").rename(tmp_path / "net" / "val" / "n99")
    with pytest.raises(DataError, match=r"net.val: other class folders, unknown: n99; missing: n02: expected a folder"):
        ImageNet(root=tmp_path / "net").source("val")
    base = miniatures.imagenette(tmp_path / "nette") / "imagenette2-160"
    (base / "val" / "n03000684").rename(tmp_path / "gone")
    with pytest.raises(DataError, match=r"val: other class folders, missing: n03000684: expected a folder for each of"):
        Imagenette(root=tmp_path / "nette").source("val")
    assert len(Imagenette(root=tmp_path / "nette").source("train")) == 80


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train",), ("train", "val")),
        (("train", "val"), SPLITS),
        (("train", "test"), SPLITS),
    ],
)
def test_held_out_photographs(tmp_path, folders, splits):
    for split in folders:
        miniatures.class_folders(tmp_path / split, ("ant", "bee"), 10, levels=1, first=100 * (split != "train"))
    data = ImageFolder(root=tmp_path, size=8, holdout=0.2)
    assert data.splits == splits
    parts = {split: set(whole(data.source(split))["input"][:, 0, 0, 0].tolist()) for split in splits}
    assert len(parts["val"]) == 4 and parts["train"] | parts["val"] == set(range(20))
    assert "test" not in parts or parts["test"] == set(range(100, 120))
    with pytest.raises(DataError, match=r"holdout 0\.01 of 20 training samples leaves a split empty"):
        ImageFolder(root=tmp_path, holdout=0.01).source("val")


def test_holdout_is_for_sets_that_lack_a_split(tmp_path):
    miniatures.images_split(tmp_path)
    with pytest.raises(UsageError, match="has all three, leave it out"):
        ImageFolder(root=tmp_path, holdout=0.1).source("val")
    for kind in (ImageFolder, Imagenette, ImageNet):
        with pytest.raises(UsageError, match=r"holdout 1\.0 is out of range"):
            kind(holdout=1.0)
    with pytest.raises(UsageError, match=r"imagenette has no split 'test': it has train, val; holdout=0\.1 keeps"):
        Imagenette(root=tmp_path).source("test")


def test_imagenette(tmp_path):
    miniatures.imagenette(tmp_path)
    own, world = (Imagenette(root=tmp_path, size=8, labels=kind) for kind in ("own", "imagenet"))
    numbers = whole(world.source("val"))["label"][:10].tolist()
    assert numbers == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert [world.class_names[i] for i in numbers] == list(own.class_names)
    direct = Imagenette(root=tmp_path / "imagenette2-160", size=8)
    assert_same_batch(whole(direct.source("val")), whole(own.source("val")))
    with pytest.raises(DataError, match="no imagenette2"):
        Imagenette(root=tmp_path / "imagenette2-160" / "val").source("val")


def test_imagenet_folder_with_flat_validation(tmp_path):
    for i, wnid in enumerate(("n01", "n02", "n03")):
        put(tmp_path / "train" / wnid / "a.JPEG", encoded(50 * i))
        put(tmp_path / "val" / f"ILSVRC2012_val_0000000{i + 1}.JPEG", encoded(50 * i))
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n3\n1\n")
    (tmp_path / "ILSVRC2012_synsets.txt").write_text("n03 cat\nn01 dog\nn02 tree\n")
    batch = whole(ImageNet(root=tmp_path, size=8).source("val"))
    assert batch["label"].tolist() == [0, 1, 2]
    assert np.allclose(batch["input"][:, 4, 4, 0], 50 * batch["label"], atol=3)
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("n01\nn02\nn9\n")
    with pytest.raises(DataError, match=r"ground_truth\.txt, line 3: 'n9' is no class"):
        ImageNet(root=tmp_path).source("val")
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    with pytest.raises(DataError, match="2 lines for 3 images"):
        ImageNet(root=tmp_path).source("val")


DIALECTS = {
    "plain": lambda i: {"image": encoded(2 * i), "label": i},
    "tfds": lambda i: {"image": encoded(2 * i), "label": i, "file_name": b"n01_%d.JPEG" % i},
    "slim": lambda i: {"image/encoded": encoded(2 * i), "image/class/label": i + 1, "image/class/synset": b"n01"},
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("layout", ["tfrecord", "arrayrecord"])
def test_imagenet_records(tmp_path, dialect, layout):
    records = [encode_example(DIALECTS[dialect](i)) for i in (0, 50, 99)]
    write = write_records if layout == "tfrecord" else write_array_records
    write(tmp_path / "imagenet2012-train.tfrecord-00000-of-00002", records[:2])
    write(tmp_path / "imagenet2012-train.tfrecord-00001-of-00002", records[2:])
    write(tmp_path / "imagenet2012-validation.tfrecord-00000-of-00001", records[:1])
    files = ImageNet(root=tmp_path, size=8)  # which of the two it is, its bytes tell
    batch = whole(files.source("train"))
    assert batch["label"].tolist() == [0, 50, 99] and len(files.source("val")) == 1
    assert np.allclose(batch["input"][:, 4, 4, 0], 2 * batch["label"], atol=3)
    bad = {key: (1001 if "label" in key else value) for key, value in DIALECTS[dialect](1).items()}
    write(tmp_path / "imagenet2012-train.tfrecord-00001-of-00002", [encode_example(bad)])
    with pytest.raises(DataError, match="00001-of-00002, record 0: label 1001"):
        whole(files.source("train"))
