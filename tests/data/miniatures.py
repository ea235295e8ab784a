"""Miniature copies of every published layout, written by code of the tests' own, and what stands in them.

A sample is known by its number: `solid(i)` is an image, `clip(i)` a video, that holds it.
"""

import io
import json

import numpy as np
import pytest
from PIL import Image

from cssm.data.formats.arrayrecord import write_array_records
from cssm.data.formats.example import encode_example
from cssm.data.formats.imagefolder import IMAGENETTE
from cssm.data.formats.tfrecord import write_records
from cssm.data.source import IMAGENET_MEAN, IMAGENET_STD


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def normalised(image):
    return ((image.astype(np.float32) / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)).astype("<f4")


def encoded(value=128, size=(40, 30), mode="RGB", kind="JPEG"):
    """An image file of one grey level; size is (width, height)."""
    out = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).convert(mode).save(out, kind)
    return out.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def whole(source):
    return source.batch(np.arange(len(source)))


def pathfinder_record(image, label, /, **changes):
    height, width, channels = image.shape
    sizes = {"height": height, "width": width, "channels": channels}
    return encode_example({"image": normalised(image).tobytes(), "label": label, **sizes, **changes})


def video_record(video, label):
    sizes = dict(zip(("num_frames", "height", "width", "channels"), video.shape, strict=True))
    return encode_example({"video": normalised(video).tobytes(), "label": label, **sizes})


def flat_record(video, label, /, **changes):
    sizes = {"height": video.shape[1], "width": video.shape[2]}
    return encode_example({"image": video.tobytes(), "label": bytes([label]), **sizes, **changes})


def shards(folder, records, *, per_shard, digits=5):
    folder.mkdir(parents=True)
    for shard, begin in enumerate(range(0, len(records), per_shard)):
        write_records(folder / f"shard_{shard:0{digits}d}.tfrecord", records[begin : begin + per_shard])


def class_folders(base, names, n, *, levels=3, first=0):
    """n photographs a class; image k of class c has the grey level first + levels * (n * c + k)."""
    for c, name in enumerate(names):
        for k in range(n):
            put(base / name / f"{k:02d}.png", encoded(first + levels * (n * c + k), kind="PNG"))


def pathfinder_png(root, n=10, difficulty=14):
    """neg i has the grey level i, pos i has n + i."""
    for label, name in enumerate(("neg", "pos")):
        for i in range(n):
            image = encoded(n * label + i, size=(20, 20), mode="L", kind="PNG")
            put(root / f"curv_contour_length_{difficulty}" / "imgs" / name / f"sample_{i:02d}.png", image)
    return root


def pathfinder_tfrecord(root, difficulty=14):
    """Image i of a split is pixels(seed = begin of the split + i)."""
    for split, begin, n in (("train", 0, 10), ("val", 100, 5), ("test", 200, 5)):
        records = [pathfinder_record(pixels(6, 7, 3, seed=begin + i), i % 2) for i in range(n)]
        shards(root / f"difficulty_{difficulty}" / split, records, per_shard=3)
    return root


def pathfinder_lra(root, n=20):
    lines = []
    for i in range(n):
        put(root / "curv_baseline" / "imgs" / "0" / f"sample_{i}.png", encoded(10 * i, (32, 32), "L", "PNG"))
        lines.append(f"imgs/0 sample_{i}.png {i} {i % 2} 1.8 6 2 5 2 3 1")
    put(root / "curv_baseline" / "metadata" / "0.npy", "\n".join(lines).encode())
    return root


def pathtracker_tfrecord(root):
    for split, begin, n in (("train", 0, 10), ("val", 100, 5), ("test", 200, 5)):
        records = [video_record(pixels(6, 4, 5, 3, seed=begin + i), i % 2) for i in range(n)]
        shards(root / split, records, per_shard=3, digits=4)
    return root


def pathtracker_flat(root):
    """20 train files of one video each, 2 test files of two."""
    for i in range(20):
        record = flat_record(pixels(8, 4, 4, 3, seed=i), i % 2)
        write_records(root / f"train-batch_0--{i:05d}-of-00020", [record], compression="gzip")
    for i in range(2):
        records = [flat_record(pixels(8, 4, 4, 3, seed=200 + 2 * i + k), k) for k in range(2)]
        write_records(root / f"test-batch_0--{i:05d}-of-00002", records, compression="gzip")
    return root


def pathtracker_npy(root, n=12):
    """Sample k of label l is pixels(seed = 100 l + k)."""
    for label in (0, 1):
        (root / str(label)).mkdir()
        for k in range(n):
            np.save(root / str(label) / f"{label}_sample_{k}.npy", pixels(64, 4, 4, 3, seed=100 * label + k))
    return root


def images_split(root):
    for split, first, n in (("train", 0, 6), ("val", 100, 3), ("test", 200, 3)):
        class_folders(root / split, ("ant", "bee", "cat"), n, first=first)
    return root


def images_alone(root):
    class_folders(root, ("ant", "bee", "cat"), 20)
    return root


def imagenette(root):
    class_folders(root / "imagenette2-160" / "train", IMAGENETTE, 8, levels=1)
    class_folders(root / "imagenette2-160" / "val", IMAGENETTE, 2, levels=1, first=100)
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_suffix(".JPEG"))
    return root


def imagenet_folder(root):
    class_folders(root / "train", ("n01", "n02", "n03"), 8)
    class_folders(root / "val", ("n01", "n02", "n03"), 3, first=150)
    return root


def imagenet_records(root, write=write_records):
    for split, begin, n in (("train", 0, 10), ("validation", 200, 4)):
        records = [encode_example({"image": encoded(begin + 5 * i, kind="PNG"), "label": 7 * i}) for i in range(n)]
        for shard in range(2):
            part = records[shard * n // 2 : (shard + 1) * n // 2]
            write(root / f"imagenet2012-{split}.records-{shard:05d}-of-00002", part)
    return root


def imagenet_arrayrecords(root):
    return imagenet_records(root, write_array_records)


def parquet_file(path, images, labels, *, names=("ant", "bee", "cat"), per_group=3, columns=("image", "label")):
    """A file as the Hugging Face hub has them; images are encoded. Without names, without the hub's metadata."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    rows = [None if data is None else {"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(images)]
    table = arrow.table({columns[0]: arrow.array(rows, kind), columns[1]: arrow.array(labels, arrow.int64())})
    if names:
        features = {columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=per_group)


def parquet_set(root):
    """train: 10 images in two files, of grey level 5 i; validation: 4, of 200 + 5 i."""
    for split, first, n in (("train", 0, 10), ("validation", 200, 4)):
        for shard in range(2):
            part = range(shard * n // 2, (shard + 1) * n // 2)
            images = [encoded(first + 5 * i, kind="PNG") for i in part]
            parquet_file(root / "data" / f"{split}-{shard:05d}-of-00002.parquet", images, [i % 3 for i in part])
    return root


def packed_set(root):
    """`imagenet_folder`, packed."""
    from cssm.data import ImageNet
    from cssm.data.pack import pack

    (root / "own").mkdir()
    return pack(ImageNet(root=imagenet_folder(root / "own")), out=root / "shards", short_side=20, shard_size=5)
