"""Crops of photographs: the centre as timm's evaluation cuts it, random resized crops, both decoders."""

import io
import math
import sys

import numpy as np
import pytest
from data_helpers import assert_same_batch, validate
from miniatures import encoded, put
from PIL import Image

from cssm.core.errors import DataError, UsageError
from cssm.data import ImageFolder, Imagenette, loader
from cssm.data.formats import images, opencv
from cssm.data.formats.crops import View, random_box


def photograph(width=90, height=60, seed=0):
    """Smooth colours and some noise, as a Pillow image."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray(
        np.clip(np.asarray(small) + rng.integers(-8, 9, (height, width, 1)), 0, 255).astype(np.uint8)
    )


def jpeg(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), [(90, 60), (61, 97), (50, 50), (30, 41)])
@pytest.mark.parametrize(("size", "crop_pct"), [(32, 0.875), (33, 0.95), (32, 1.0), (48, 0.9)])
def test_the_centre_is_that_of_the_definition(interpolation, width, height, size, crop_pct):
    """Short side to floor(size / crop_pct), the long one in proportion, rounded down; the centre of size x size."""
    image = photograph(width, height)
    short = math.floor(size / crop_pct)
    scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    expected = np.asarray(image.resize(scaled, Image.Resampling[interpolation.upper()]))
    top, left = round((scaled[1] - size) / 2), round((scaled[0] - size) / 2)
    view = View(size=size, crop_pct=crop_pct, interpolation=interpolation)
    np.testing.assert_array_equal(view(png(image), "here"), expected[top : top + size, left : left + size])


def test_the_published_sizes():
    assert [View(size=224, crop_pct=p).short for p in (0.875, 0.9, 0.95, 0.96, 1.0)] == [256, 248, 235, 233, 224]


def test_area_and_aspect_of_random_crops():
    """Where every crop fits, the share is uniform and the logarithm of the aspect too: by Kolmogorov and Smirnov."""
    side, least = 4000, 0.08
    boxes = np.array([random_box(side, side, least, int(d)) for d in np.random.default_rng(0).integers(0, 2**63, 8000)])
    across, down = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, aspect = across * down / side**2, np.log(across / down) / math.log(4 / 3)
    assert boxes.min() >= 0 and boxes.max() <= side and share.min() >= least - 1e-3 and np.abs(aspect).max() < 1.001
    fits = share < 0.75 * 0.999  # a larger one may stand out, and is then drawn again
    distance = lambda x: np.abs(np.sort(x) - np.arange(len(x)) / len(x)).max() * math.sqrt(len(x))  # noqa: E731
    assert distance((share[fits] - least) / (share[fits].max() - least)) < 1.9  # exceeded once in a thousand
    assert distance((aspect[fits] + 1) / 2) < 1.9
    assert 0.70 < fits.mean() < 0.85
    left, top = (boxes[fits, i] / (side - n[fits]) for i, n in ((0, across), (1, down)))
    assert distance(left) < 1.9 and distance(top) < 1.9
    assert abs(np.corrcoef(left, top)[0, 1]) < 0.05


def test_a_thin_image_gives_its_centre():
    assert random_box(300, 10, 0.5, 3) == (143, 0, 156, 10)
    assert random_box(10, 300, 0.5, 3) == (0, 143, 10, 156)
    assert random_box(1, 1, 0.08, 3) == (0, 0, 1, 1)


def test_a_random_crop_is_the_box_resized():
    image, view = photograph(200, 150), View(size=48, random_crop=0.3, interpolation="bicubic")
    for draw in range(5):
        box = random_box(200, 150, 0.3, draw)
        expected = image.crop(box).resize((48, 48), Image.Resampling.BICUBIC)
        got = view(png(image), "here", draw)
        away = np.abs(got.astype(int) - np.asarray(expected))[4:-4, 4:-4]  # at the edge, the filter sees beyond the box
        assert away.max() <= 1
    np.testing.assert_array_equal(view(png(image), "here"), View(size=48, interpolation="bicubic")(png(image), "here"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for split, first in (("train", 0), ("val", 10)):
        for c, name in enumerate(("ant", "bee")):
            for k in range(5):
                put(root / split / name / f"{k}.jpg", jpeg(photograph(40, 30, seed=first + 100 * c + k)))
    return root


def training(folder, batch_size=4, seed=3, **options):
    data = ImageFolder(root=folder, size=16, random_crop=0.3)
    return loader(data.source("train"), batch_size=batch_size, seed=seed, shuffle=True, repeat=True, **options)


def test_a_resumed_run_crops_as_the_undisturbed_one(folder):
    straight = training(folder)
    for _ in range(2):
        next(straight)
    state = straight.get_state()
    rest = [next(straight) for _ in range(4)]
    for threads in (0, 2):
        resumed = training(folder, threads=threads)
        resumed.set_state(state)
        for batch in rest:
            assert_same_batch(next(resumed), batch)
    smaller = training(folder, batch_size=2)
    smaller.set_state(state)
    for batch in rest:
        halves = [next(smaller) for _ in range(2)]
        assert_same_batch({k: np.concatenate([h[k] for h in halves]) for k in batch}, batch)


def test_two_processes_crop_as_one(folder):
    whole, parts = training(folder), [training(folder, process=(i, 2)) for i in range(2)]
    for _ in range(4):
        rows = [next(part) for part in parts]
        assert_same_batch(next(whole), {k: np.concatenate([r[k] for r in rows]) for k in rows[0]})


def epochs(batches, n=2):
    """For each epoch of 10 samples: label and order aside, the pixels, sorted."""
    seen = np.concatenate([next(batches)["input"] for _ in range(n * 5)])
    return [{image.tobytes() for image in seen[10 * e : 10 * e + 10]} for e in range(n)]


def test_every_epoch_and_seed_crops_anew(folder):
    first, second = epochs(training(folder, batch_size=2))
    [other] = epochs(training(folder, batch_size=2, seed=4), 1)
    assert len(first | second | other) == 30


def test_validation_and_single_samples_see_the_centre(folder):
    data, plain = ImageFolder(root=folder, size=16, random_crop=0.3, holdout=0.4), ImageFolder(root=folder, size=16)
    centre = {x.tobytes() for x in plain.source("train").batch(range(10))["input"]}
    held_out = data.source("val")
    batch = held_out.batch(range(4))
    assert {x.tobytes() for x in batch["input"]} < centre
    assert_same_batch(held_out.drawn(range(4), np.arange(4, dtype=np.uint64)), batch)
    train = data.source("train", size=5, seed=1)  # a part, in another order
    assert {x.tobytes() for x in train.batch(range(5))["input"]} < centre
    drawn = train.drawn(range(5), np.arange(5, dtype=np.uint64))
    assert not {x.tobytes() for x in drawn["input"]} & centre
    np.testing.assert_array_equal(drawn["label"], train.batch(range(5))["label"])


def test_corrupt_photographs_are_left_out_of_random_crops_too(tmp_path):
    for k in range(4):
        put(tmp_path / "train" / "ant" / f"{k}.jpg", encoded(100 + k)[: 300 if k == 2 else None])
    source = ImageFolder(root=tmp_path, size=8, random_crop=0.5, skip_corrupt=True).source()
    assert source.drawn(range(4), np.zeros(4, np.uint64))["valid"].tolist() == [True, True, False, True]
    with pytest.raises(DataError, match=r"2\.jpg: not a whole"):
        ImageFolder(root=tmp_path, size=8, random_crop=0.5).source().drawn([2], np.zeros(1, np.uint64))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 0}, "size 0 is out of range: choose 1..4096"),
        ({"crop_pct": 0.0}, r"crop_pct 0\.0 is out of range: choose 0\.01\.\.1"),
        ({"crop_pct": 1.5}, r"crop_pct 1\.5"),
        ({"crop_pct": math.nan}, "crop_pct nan"),
        ({"random_crop": 0.0}, r"random_crop 0\.0 is no share of the area"),
        ({"random_crop": 1.1}, r"random_crop 1\.1"),
        ({"interpolation": "nearest"}, "interpolation 'nearest' is unknown: choose one of bilinear, bicubic"),
        ({"decoder": "turbo"}, "decoder 'turbo' is unknown"),
    ],
)
def test_options_out_of_range(options, named):
    with pytest.raises(UsageError, match=named):
        validate(View, **{"size": 8, **options})


def test_a_set_checks_how_it_is_seen():
    with pytest.raises(UsageError, match="size 5000 is out of range"):
        Imagenette(size=5000)
    with pytest.raises(UsageError, match=r"crop_pct 2\.0 is out of range"):
        ImageFolder(crop_pct=2.0)


opencv_only = pytest.mark.skipif(not opencv.installed(), reason="OpenCV is an extra")


@opencv_only
@pytest.mark.parametrize("size", [24, 48, 120])
def test_opencv_sees_what_pillow_sees(size):
    data = jpeg(photograph(300, 200))
    slow, fast = (View(size=size, crop_pct=0.875, random_crop=0.3, decoder=kind) for kind in ("pillow", "opencv"))
    for draw in (None, 0, 1):
        away = np.abs(slow(data, "here", draw).astype(int) - fast(data, "here", draw))
        assert away.mean() < 4 and fast(data, "here", draw).shape == (size, size, 3)
    away = np.abs(np.asarray(images.decode(data, "here")).astype(int) - opencv.decode_opencv(data, "here"))
    assert away.max() <= 2


@opencv_only
@pytest.mark.parametrize("orientation", range(1, 9))
def test_opencv_turns_photographs_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photograph(48, 32), exif=exif)
    away = np.abs(np.asarray(images.decode(data, "here")).astype(int) - opencv.decode_opencv(data, "here"))
    assert away.max() <= 2


@opencv_only
@pytest.mark.parametrize(("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG")])
def test_opencv_reads_every_kind(mode, kind):
    data = encoded(200, mode=mode, kind=kind)
    np.testing.assert_allclose(opencv.decode_opencv(data, "here"), images.decode_image(data, "here"), atol=1)


@opencv_only
def test_opencv_refuses_what_is_cut_off(monkeypatch):
    thumbnail = jpeg(photograph(16, 16))  # whole, within the header: its end is not that of the photograph
    exif = b"Exif\0\0" + thumbnail
    data = jpeg(photograph(300, 200), exif=exif)
    assert opencv.decode_opencv(data, "here").shape == (200, 300, 3)
    # some releases of OpenCV give what is left of a photograph: the end is looked for behind the thumbnail's
    begin = opencv._pixels_begin(data)
    assert data.find(opencv.END) < begin < data.find(opencv.END, begin) == len(data) - 2
    for cut in (len(data) - 2, len(data) // 2, 700, 3):
        with pytest.raises(DataError, match="here: not a whole PNG or JPEG"):
            opencv.decode_opencv(data[:cut], "here")
    monkeypatch.setattr(images, "LARGEST", 1000)
    with pytest.raises(DataError, match="300 x 200 px, more than 1000"):
        opencv.decode_opencv(data, "here")


@opencv_only
def test_opencv_cuts_a_thin_image_before_scaling(monkeypatch):
    data = jpeg(photograph(400, 20))
    view = View(size=40, decoder="opencv")
    whole = view(data, "here").astype(int)
    monkeypatch.setattr(opencv, "SCALED", 0)
    cut = view(data, "here")
    assert cut.shape == (40, 40, 3) and np.abs(cut - whole).mean() < 6


def test_opencv_that_is_not_installed_is_one_line(folder, monkeypatch):
    opencv.opencv.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"decoder opencv needs OpenCV: pip install 'cssm\[opencv\]', or leave"):
        ImageFolder(root=folder, decoder="opencv").source("val")
