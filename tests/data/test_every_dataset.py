"""What holds for every registered data set, generated or from files; miniatures stand for the published files."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import miniatures
import numpy as np
import pytest
from data_helpers import assert_same_batch
from miniatures import pixels, whole
from PIL import Image

from cssm.core.errors import UsageError
from cssm.data import DATASETS, DataSet, PathTracker, create_dataset
from cssm.data.dataset import is_files
from cssm.data.make import make
from cssm.data.ten_photographs import photographs
from cssm.train.saved_config import decode, encode

SPLITS = ("train", "val", "test")


class Case(NamedTuple):
    """A data set, how its files are written, and what its splits must hold, in order."""

    id: str
    name: str
    options: dict[str, Any]
    files: Callable[..., Any] | None = None
    inputs: Callable[[str], list[Any]] | None = None  # split -> inputs, or grey levels; None: generated
    ready: bool = True  # opened by looking, through data_dir


def permuted(n):
    return np.random.RandomState(42).permutation(n).tolist()


def cut_80_10_10(split, level):
    order = permuted(20)
    return [level * i for i in {"train": order[:16], "val": order[16:18], "test": order[18:]}[split]]


def seeds(*shape):
    """As the shards are numbered: three splits of 10, 5 and 5."""
    numbers = {"train": range(10), "val": range(100, 105), "test": range(200, 205)}
    return lambda split: [pixels(*shape, seed=i) for i in numbers[split]]


def flat(split):
    numbers = {"train": range(18), "val": (18, 19), "test": range(200, 204)}[split]
    return [pixels(8, 4, 4, 3, seed=i) for i in numbers]


def npy(split):
    order = [100 * label + k for k in range(12) for label in (0, 1)]
    at = np.round(np.linspace(0, 63, 32)).astype(int)
    numbers = {"train": order[:20], "val": order[20:22], "test": order[22:]}[split]
    return [pixels(64, 4, 4, 3, seed=i)[at] for i in numbers]


def turns(classes, n, *, levels=3, first=0):
    return [first + levels * (n * c + k) for k in range(n) for c in range(classes)]


def images_split(split):
    first, n = {"train": (0, 6), "val": (100, 3), "test": (200, 3)}[split]
    return turns(3, n, first=first)


def images_alone(split):
    order = permuted(20)
    part = sorted({"train": order[4:], "val": order[:2], "test": order[2:4]}[split])
    return [3 * (20 * c + k) for k in part for c in range(3)]


def imagenette(split):
    return turns(10, *{"train": (8,), "val": (2,)}[split], levels=1, first=100 * (split == "val"))


def imagenette_held_out(split):
    if split == "test":
        return imagenette("val")
    published, order = imagenette("train"), permuted(80)
    return [published[i] for i in sorted(order[:20] if split == "val" else order[20:])]


def imagenet(split):
    return turns(3, 8) if split == "train" else turns(3, 3, first=150)


def records(split):
    return [5 * i for i in range(10)] if split == "train" else [200 + 5 * i for i in range(4)]


def digits(split):
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    begin, end = {"train": (0, 1257), "val": (1257, 1527), "test": (1527, 1797)}[split]
    chosen = bunch.images[np.random.RandomState(0).permutation(1797)[begin:end]]
    return list(np.repeat(np.clip(chosen * 16, 0, 255).astype(np.uint8)[..., None], 3, -1))


def photos(split):
    """Crop i is of strip i % 5 of photograph i // 5 % 2, within the rows of the split."""
    pictures = pytest.importorskip("sklearn.datasets").load_sample_images().images
    seed, low, high, count = {"test": (0, 341, 427, 500), "train": (1, 0, 256, 2000), "val": (2, 256, 341, 500)}[split]
    draw = np.random.RandomState(seed)
    top, left = draw.randint(low, high - 31, count), draw.randint(0, 97, count)
    corners = zip(top, left + np.arange(count) % 5 * 128, strict=True)
    return [pictures[i // 5 % 2][y : y + 32, x : x + 32] for i, (y, x) in enumerate(corners)]


def ten_photographs(split):
    """Crop i is of photograph i % 10, of a band of the split, resized, lit and tinted."""
    pytest.importorskip("skimage"), pytest.importorskip("sklearn")
    pictures = [Image.fromarray(picture) for picture in photographs()]
    held = {"test": (0, (5,), 500), "train": (1, (0, 1, 3, 4, 6, 7), 2000), "val": (2, (2,), 500)}
    seed, numbers, count = held[split]
    draw, crops = np.random.RandomState(seed), []
    chosen = draw.randint(0, len(numbers), count)
    scale, place = draw.uniform(0.5, 1, count), draw.uniform(0, 1, (count, 2))
    colour = draw.uniform(0.5, 0.85, (count, 1)) * draw.uniform(0.85, 1.15, (count, 3))
    for i in range(count):
        picture, band = pictures[i % 10], numbers[chosen[i]]
        width, height = picture.size
        long = max(width, height) // 8
        begin, end = band * long, (band + 1) * long
        cut = picture.crop((begin, 0, end, height) if width > height else (0, begin, width, end))
        side = scale[i] * min(cut.size)
        top, left = place[i, 0] * (cut.height - side), place[i, 1] * (cut.width - side)
        crop = cut.resize((32, 32), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        crops.append((np.asarray(crop) * colour[i]).astype(np.uint8))
    return crops


def made(generator, format):
    """A set that `cssm data make` wrote, and what the generator gives."""

    def files(root):
        make(generator, out=root, splits={"train": 9, "val": 4, "test": 3}, format=format, shard_size=4)
        return root

    def inputs(split):
        return list(whole(generator.source(split, size={"train": 9, "val": 4, "test": 3}[split]))["input"])

    return files, inputs


SMALL = PathTracker(frames=6, distractors=1)
CASES = [
    Case("pathtracker", "pathtracker", {"frames": 6}),
    Case("girik", "girik", {"frames": 6}),
    Case("pathfinder", "pathfinder", {"size": 32}),
    Case("featuretracker", "featuretracker", {"frames": 6}),
    Case("digits", "digits", {}, None, digits),
    Case("photos", "photos", {}, None, photos),
    Case("ten photographs", "ten_photographs", {"size": 32}, None, ten_photographs),
    Case("tracks", "tracks", {"frames": 4, "size": 32, "points": 3}),
    Case("pathfinder png", "pathfinder", {}, miniatures.pathfinder_png, lambda s: cut_80_10_10(s, 1)),
    Case("pathfinder png, size", "pathfinder", {"size": 12}, miniatures.pathfinder_png, lambda s: cut_80_10_10(s, 1)),
    Case("pathfinder lra", "pathfinder", {"difficulty": 6}, miniatures.pathfinder_lra, lambda s: cut_80_10_10(s, 10)),
    Case("pathfinder tfrecord", "pathfinder", {}, miniatures.pathfinder_tfrecord, seeds(6, 7, 3)),
    Case("pathtracker tfrecord", "pathtracker", {}, miniatures.pathtracker_tfrecord, seeds(6, 4, 5, 3)),
    Case("pathtracker flat", "pathtracker", {}, miniatures.pathtracker_flat, flat),
    Case("pathtracker npy", "pathtracker_files", {"frames": 32}, miniatures.pathtracker_npy, npy),
    Case("images", "images", {"size": 16}, miniatures.images_split, images_split),
    Case("images alone", "images", {"size": 16}, miniatures.images_alone, images_alone),
    Case("imagenette", "imagenette", {"size": 16}, miniatures.imagenette, imagenette),
    Case("imagenette of 1000", "imagenette", {"size": 16, "labels": "imagenet"}, miniatures.imagenette, imagenette),
    Case(
        "imagenette held out", "imagenette", {"size": 16, "holdout": 0.25}, miniatures.imagenette, imagenette_held_out
    ),
    Case("imagenet folder", "imagenet", {"size": 16}, miniatures.imagenet_folder, imagenet),
    Case("imagenet tfrecord", "imagenet", {"size": 16}, miniatures.imagenet_records, records),
    Case("imagenet arrayrecord", "imagenet", {"size": 16}, miniatures.imagenet_arrayrecords, records),
    Case("parquet", "parquet", {"size": 16}, miniatures.parquet_set, records),
    Case("packed", "imagenet", {"size": 16}, miniatures.packed_set, imagenet),
    Case("packed, by its own name", "packed", {"size": 16}, miniatures.packed_set, imagenet),
    Case("made arrayrecord", "pathtracker", {"distractors": 1}, *made(SMALL, "arrayrecord")),
    Case("made tfrecord", "stored", {}, *made(SMALL, "tfrecord")),
    Case("made tfrecord, published reader", "pathtracker_files", {}, *made(SMALL, "tfrecord")),
]


def test_every_dataset_has_a_case():
    ours = {name for name in DATASETS.names() if DATASETS[name].__module__.startswith("cssm.")}  # tests add their own
    assert {DATASETS.canonical(case.name) for case in CASES} | {"pathfinder_files"} == ours


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """case -> its folder, written once."""
    written = {}

    def folder(case):
        if case.files and case.id not in written:
            written[case.id] = case.files(tmp_path_factory.mktemp("set"))
        return written.get(case.id)

    return folder


@pytest.fixture(params=CASES, ids=lambda case: case.id)
def case(request):
    return request.param


@pytest.fixture
def data(case, roots):
    return create_dataset(case.name, data_dir=roots(case), **case.options)


def source_of(case, data, split, size=None, **options):
    """All of a split; 12 samples of what is generated."""
    return data.source(split, size=12 if size is None and case.inputs is None else size, **options)


def test_it_is_a_dataset(case, data):
    assert isinstance(data, DataSet) and dataclasses.is_dataclass(data)
    assert set(data.splits) <= set(SPLITS) and data.splits[:2] == ("train", "val")
    assert data.baseline in ("markers", "majority", "static")
    assert decode(encode(data)) == data and type(decode(encode(data))) is type(data)


def test_order_is_the_published_order(case, data):
    for split in data.splits if case.inputs else ():
        batch, expected = whole(data.source(split)), case.inputs(split)
        assert len(batch["input"]) == len(expected)
        for got, want in zip(batch["input"], expected, strict=True):
            np.testing.assert_array_equal(got, np.full_like(got, want) if np.isscalar(want) else want)


def test_size_is_honoured(case, data):
    for split in data.splits:
        source = source_of(case, data, split)
        for size in (0, 2):
            first = data.source(split, size=size)
            assert len(first) == size
        assert_same_batch(whole(first), source.batch([0, 1]))
        with pytest.raises(IndexError):
            first[2]
        if case.inputs:
            with pytest.raises(UsageError, match=f"{len(source) + 1} samples were asked for, .* hold {len(source)}"):
                data.source(split, size=len(source) + 1)
    if case.inputs is None:
        with pytest.raises(UsageError, match="has no end: give a size"):
            data.source()


def test_splits_are_disjoint_and_seeds_do_not_move_them(case, data):
    seen = {}
    for split in data.splits:
        batch = whole(source_of(case, data, split))
        seen[split] = {value.tobytes() for value in batch["input"]}
        if case.inputs:
            again = whole(data.source(split, seed=5))
            assert {value.tobytes() for value in again["input"]} == seen[split]
            assert len(batch["input"]) < 5 or (again["input"] != batch["input"]).any()
        assert case.id in ("digits", "photos") or len(seen[split]) == len(batch["input"])
    for a in seen:
        assert all(a == b or not seen[a] & seen[b] for b in seen)


def test_samples_are_as_the_specification_says(case, data):
    spec = data.sample_spec
    labelled = {"input", "label"} <= set(spec) <= {"input", "label", "markers"}
    assert labelled or set(spec) == {"input", "query_points", "tracks", "occluded"}
    for split in data.splits:
        source = source_of(case, data, split)
        batch = source.batch([1, 0])
        assert {key: (value.shape[1:], value.dtype.name) for key, value in batch.items()} == dict(spec)
        assert_same_batch({key: value[1:] for key, value in batch.items()}, source.batch([0]))
        for key, value in source[1].items():
            np.testing.assert_array_equal(value, batch[key][0])


def test_labels_and_names_agree(case, data):
    if "label" not in data.sample_spec:
        assert data.class_names == () and data.num_classes == 0
        return
    assert data.num_classes == len(data.class_names) == len(set(data.class_names))
    assert not any(name.startswith("label") for name in data.class_names)
    for split in data.splits:
        source = source_of(case, data, split)
        labels = whole(source)["label"]
        assert labels.dtype == np.int32 and labels.min() >= 0 and labels.max() < data.num_classes
        if source.known_labels is not None:
            np.testing.assert_array_equal(source.known_labels, labels)
    if data.num_classes < 1000:
        assert len(set(whole(source_of(case, data, "train"))["label"].tolist())) > 1


def test_an_unknown_split_is_one_clear_error(case, data):
    for split in {"valid", "test"} - set(data.splits):
        with pytest.raises(UsageError, match=f"has no split '{split}': it has {', '.join(data.splits)}"):
            data.source(split, size=1)


@pytest.mark.parametrize("name", [name for name in DATASETS.names() if is_files(DATASETS[name])])
def test_files_without_a_folder_are_one_clear_error(name):
    data = create_dataset(name)
    assert decode(encode(data)) == data
    with pytest.raises(UsageError, match=r"is read from files: give --data-dir"):
        data.source("train")


def test_holdout_is_refused_where_there_is_nothing_to_hold_out(tmp_path):
    root = miniatures.images_alone(tmp_path)
    with pytest.raises(UsageError, match="cut 80/10/10; leave it out"):
        DATASETS["images"](root=root, holdout=0.1).source("train")
