"""Folders as people have them: hidden folders, foreign files, links that lead nowhere, empty and swapped archives."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cssm.core.errors import DataError
from cssm.data import PathTracker, StoredFiles, create_dataset
from cssm.data.formats import folders
from cssm.data.formats.example import encode_example
from cssm.data.formats.imagefolder import ImageFolder
from cssm.data.formats.images import decode_image
from cssm.data.formats.manifest import verify
from cssm.data.formats.pathfinder import PathfinderFiles
from cssm.data.formats.pathtracker import PathTrackerFiles
from cssm.data.formats.tfrecord import TFRecordFiles, write_records
from cssm.data.make import make


@pytest.fixture
def photographs(tmp_path):
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / name).mkdir()
        for n in range(10):
            Image.new("RGB", (16, 16), (100 * label + n,) * 3).save(tmp_path / name / f"{n}.png")
    return tmp_path


def labels(data):
    return data.source("train").batch(range(4))["label"].tolist()


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found"])
def test_hidden_folders_are_no_classes(photographs, name):
    shutil.copytree(photographs / "ant", photographs / name)
    (photographs / "ant" / "._0.png").write_bytes(b"a resource fork")
    data = ImageFolder(root=photographs, size=8)
    assert data.class_names == ("ant", "bee") and labels(data) == [0, 1, 0, 1]
    assert len(data.source("train")) == 16


def test_a_class_that_is_a_dangling_link_is_an_error(photographs):
    (photographs / "cat").symlink_to(photographs / "gone")
    with pytest.raises(DataError, match=r"cat: a link to .*gone, where nothing is"):
        ImageFolder(root=photographs, size=8).class_names  # noqa: B018


def test_a_dangling_image_is_an_error_or_counted(photographs):
    (photographs / "bee" / "11.png").symlink_to(photographs / "gone.png")
    with pytest.raises(DataError, match="a link to"):
        ImageFolder(root=photographs, size=8).source("train")
    left = []
    for split in ("train", "val", "test"):
        source = ImageFolder(root=photographs, size=8, skip_corrupt=True).source(split)
        source.batch(np.arange(len(source)))
        left += source.left_out
    assert len(left) == 1 and "11.png" in left[0]


def flat(folder, label=0, count=3, shards=("train-0", "train-1", "test-0")):
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.full((2, 8, 8, 3), 10 * label + 1, np.uint8)
    record = encode_example({"image": frames.tobytes(), "label": bytes([label]), "height": 8, "width": 8})
    for name in shards:
        write_records(folder / name, [record] * count, compression="gzip")
    return folder


def test_foreign_files_between_records_are_passed_over_and_said_once(tmp_path, caplog):
    folder = flat(tmp_path / "set")
    for name in (".DS_Store", "train-notes.txt", "train-0.md", "train-0.json", "train-0.index", "SHA256SUMS"):
        (folder / name).write_text("no record")
    folders._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "cssm.data"):
        for _ in range(2):
            assert len(PathTrackerFiles(root=folder, layout="flat").source("train")) == 3
    assert caplog.text.count("passed over 5 files") == 1


def test_shards_that_are_dangling_links_are_an_error(tmp_path):
    folder = flat(tmp_path / "set")
    (folder / "train-2").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="a link to"):
        PathTrackerFiles(root=folder, layout="flat").source("train")


def test_one_cache_serves_two_folders(tmp_path):
    """Files of one name, size and time in two folders: the second folder's pixels are its own."""
    one, two = flat(tmp_path / "a", 0), flat(tmp_path / "b", 1)
    for name in ("train-0", "train-1", "test-0"):
        about = (one / name).stat()
        assert (two / name).stat().st_size == about.st_size
        os.utime(two / name, ns=(about.st_atime_ns, about.st_mtime_ns))
    for folder, pixel in ((one, 1), (two, 11)):
        data = PathTrackerFiles(root=folder, layout="flat", cache=tmp_path / "cache")
        assert data.source("train")[0]["input"].max() == pixel


def test_an_empty_archive_is_no_empty_set(tmp_path):
    path = tmp_path / "a.tfrecord.gz"
    path.touch()
    with pytest.raises(DataError, match="an empty file, no GZIP"):
        TFRecordFiles([path], compression="gzip")
    assert "an empty file" in TFRecordFiles([path], compression="gzip", skip_corrupt=True).left_out[0]


@pytest.fixture
def made(tmp_path):
    return make(
        PathTracker(frames=4), out=tmp_path / "made", splits={"train": 6, "val": 3}, shard_size=3, format="tfrecord"
    )


def test_a_shard_emptied_since_it_was_made_is_named(made):
    (made / "train" / "shard_0001.tfrecord").write_bytes(b"")
    with pytest.raises(DataError, match=r"shard_0001.*not a whole shard, 0 bytes, metadata.json lists \d+"):
        StoredFiles(root=made).source("train")
    source = StoredFiles(root=made, skip_corrupt=True).source("train")
    assert len(source) == 3 and len(source.left_out) == 1


EDITS = {
    "no object": lambda m: [],
    "no shards": lambda m: m | {"splits": {"train": []}},
    "negative": lambda m: m | {"splits": {"train": [{"name": "a", "sha256": "b", "samples": -1}]}},
    "true": lambda m: m | {"splits": {"train": [{"name": "a", "sha256": "b", "samples": True}]}},
    "itself": lambda m: m | {"dataset": "stored", "options": {}},
    "outside": lambda m: m | {"splits": {"train": [{"name": "../../x", "sha256": "b", "samples": 1}]}},
    "options": lambda m: m | {"options": {"frames": "many"}},
    "option": lambda m: m | {"options": {"colour": 3}},
    "format": lambda m: m | {"format": "pickle"},
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_metadata_is_one_error(made, edit):
    path = made / "metadata.json"
    path.write_text(json.dumps(EDITS[edit](json.loads(path.read_text()))))
    with pytest.raises(DataError, match=r"metadata|made"):
        data = create_dataset("stored", data_dir=made)
        data.class_names  # noqa: B018
        data.source("train")
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="not the metadata"):
        StoredFiles(root=made).source("train")


def test_metadata_has_the_published_frames(made):
    assert json.loads((made / "metadata.json").read_text())["num_frames"] == 4


def test_what_make_wrote_of_pathfinder_is_read_and_verified_from_the_folder_given(tmp_path):
    from cssm.data import Pathfinder

    make(Pathfinder(difficulty=6), out=tmp_path / "p", splits={"train": 2}, format="tfrecord")
    assert verify(tmp_path / "p") == 2
    assert len(create_dataset("pathfinder", data_dir=tmp_path / "p").source("train")) == 2


def test_pathfinder_of_tfds_has_encoded_images(tmp_path):
    import io

    folder = tmp_path / "pathfinder32" / "1.0.0"
    folder.mkdir(parents=True)
    records = []
    for n in range(20):
        stream = io.BytesIO()
        Image.new("L", (32, 32), n).save(stream, "PNG")
        records.append(encode_example({"image": stream.getvalue(), "label": n % 2}))
    assert decode_image(stream.getvalue(), "a").max() == 19
    write_records(folder / "pathfinder32-hard.tfrecord-00000-of-00001", records)
    (folder / "dataset_info.json").write_text("{}")
    data = create_dataset("pathfinder", data_dir=tmp_path)
    assert isinstance(data, PathfinderFiles) and data.sample_spec["input"].shape == (32, 32, 3)
    batches = {split: data.source(split) for split in data.splits}
    assert {split: len(source) for split, source in batches.items()} == {"train": 16, "val": 2, "test": 2}
    assert batches["test"][1]["input"].max() == 19 and batches["test"][1]["label"] == 1
    with pytest.raises(DataError, match="looked for"):
        create_dataset("pathfinder", data_dir=tmp_path, difficulty=9).source("train")
