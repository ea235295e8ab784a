"""ImageFolder, Imagenette and ImageNet in miniature, with grey, palette, CMYK and broken files."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from cssm.core.errors import DataError
from cssm.data.formats.arrayrecord import write_array_records
from cssm.data.formats.example import encode_example
from cssm.data.formats.imagefolder import IMAGENETTE, ImageFolder, Imagenette
from cssm.data.formats.imagenet import ImageNet
from cssm.data.formats.images import decode_image
from cssm.data.formats.tfrecord import write_records


def jpeg(value=128, size=(40, 30), mode="RGB", kind="JPEG"):
    out = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).convert(mode).save(out, kind)
    return out.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def whole(source):
    return source.batch(np.arange(len(source)))


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")]
)
def test_every_kind_of_pixel_becomes_rgb(mode, kind):
    image = decode_image(jpeg(255, mode=mode, kind=kind), "here", size=16, crop=True)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8 and image.min() > 250


def test_crop_keeps_the_aspect_ratio():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    out = io.BytesIO()
    Image.fromarray(wide).save(out, "PNG")
    assert decode_image(out.getvalue(), "here", size=10, crop=True)[:, 1:-1].min() > 200
    assert decode_image(out.getvalue(), "here", size=10)[:, 0].max() == 0
    assert decode_image(out.getvalue(), "here").shape == (20, 60, 3)


@pytest.mark.parametrize("data", [b"", b"GIF89a", jpeg()[:200], b"\x89PNG\r\n\x1a\n" + b"\0" * 30], ids=len)
def test_broken_images_are_named(data):
    with pytest.raises(DataError, match="f, record 3: not a whole PNG or JPEG"):
        decode_image(data, "f, record 3")


def test_other_formats_and_giants_are_refused():
    with pytest.raises(DataError, match="not a whole PNG or JPEG"):
        decode_image(jpeg(kind="BMP"), "here")
    giant = bytearray(jpeg(kind="PNG"))
    giant[16:24] = (60000).to_bytes(4, "big") * 2
    giant[29:33] = zlib.crc32(bytes(giant[12:29])).to_bytes(4, "big")
    with pytest.raises(DataError, match=r"60000 x 60000 px, more than|not a whole PNG .*exceeds"):
        decode_image(bytes(giant), "here")


def test_imagefolder(tmp_path):
    for split, n in (("train", 3), ("val", 2)):
        for c, name in enumerate(("ant", "bee")):
            for i in range(n):
                put(tmp_path / split / name / f"{i}.jpg", jpeg(100 * c + 20))
    files = ImageFolder(root=tmp_path, size=16)
    assert files.class_names == ("ant", "bee") and files.num_classes == 2
    batch = whole(files.source("train"))
    assert batch["input"].shape == (6, 16, 16, 3)
    assert np.allclose(batch["input"][:, 8, 8, 0], 100 * batch["label"] + 20, atol=3)
    assert batch["label"].tolist() != sorted(batch["label"].tolist())  # mixed, so that the first n are of all
    put(tmp_path / "val" / "cat" / "0.jpg", jpeg())
    with pytest.raises(DataError, match="cat: not one of the 2 known classes"):
        files.source("val")
    with pytest.raises(DataError, match="test: no such folder"):
        files.source("test")


def test_imagenette(tmp_path):
    for i, wnid in enumerate(IMAGENETTE):
        put(tmp_path / "imagenette2-160" / "val" / wnid / "a.JPEG", jpeg(20 * i, mode="L" if i % 2 else "CMYK"))
    (tmp_path / "imagenette2-160" / "train").mkdir()
    own, world = (whole(Imagenette(root=tmp_path, size=8, labels=kind).source("val")) for kind in ("own", "imagenet"))
    assert sorted(own["label"]) == list(range(10))
    assert sorted(world["label"]) == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert np.allclose(own["input"][:, 4, 4, 0], 20 * own["label"], atol=4)
    with pytest.raises(DataError, match="no imagenette2"):
        Imagenette(root=tmp_path / "imagenette2-160" / "val").source("val")


def test_imagenet_folder_with_flat_validation(tmp_path):
    for i, wnid in enumerate(("n01", "n02", "n03")):
        put(tmp_path / "train" / wnid / "a.JPEG", jpeg(50 * i))
        put(tmp_path / "val" / f"ILSVRC2012_val_0000000{i + 1}.JPEG", jpeg(50 * i))
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n3\n1\n")
    (tmp_path / "ILSVRC2012_synsets.txt").write_text("n03 cat\nn01 dog\nn02 tree\n")
    batch = whole(ImageNet(root=tmp_path, size=8).source("val"))
    assert np.allclose(batch["input"][:, 4, 4, 0], 50 * batch["label"], atol=3)
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("n01\nn02\nn9\n")
    with pytest.raises(DataError, match=r"ground_truth\.txt, line 3: 'n9' is no class"):
        ImageNet(root=tmp_path).source("val")
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    with pytest.raises(DataError, match="2 lines for 3 images"):
        ImageNet(root=tmp_path).source("val")


DIALECTS = {
    "plain": lambda i: {"image": jpeg(2 * i), "label": i},
    "tfds": lambda i: {"image": jpeg(2 * i), "label": i, "file_name": b"n01_%d.JPEG" % i},
    "slim": lambda i: {"image/encoded": jpeg(2 * i), "image/class/label": i + 1, "image/class/synset": b"n01"},
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("layout", ["tfrecord", "arrayrecord"])
def test_imagenet_records(tmp_path, dialect, layout):
    records = [encode_example(DIALECTS[dialect](i)) for i in (0, 50, 99)]
    write = write_records if layout == "tfrecord" else write_array_records
    write(tmp_path / "imagenet2012-train.tfrecord-00000-of-00002", records[:2])
    write(tmp_path / "imagenet2012-train.tfrecord-00001-of-00002", records[2:])
    write(tmp_path / "imagenet2012-validation.tfrecord-00000-of-00001", records[:1])
    files = ImageNet(root=tmp_path, layout=layout, size=8)
    batch = whole(files.source("train"))
    assert batch["label"].tolist() == [0, 50, 99] and len(files.source("val")) == 1
    assert np.allclose(batch["input"][:, 4, 4, 0], 2 * batch["label"], atol=3)
    bad = {key: (1001 if "label" in key else value) for key, value in DIALECTS[dialect](1).items()}
    write(tmp_path / "imagenet2012-train.tfrecord-00001-of-00002", [encode_example(bad)])
    with pytest.raises(DataError, match="00001-of-00002, record 0: label 1001"):
        whole(files.source("train"))
