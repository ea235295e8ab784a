import json
import os
import signal
import subprocess
import sys
import time

import pytest
from data_helpers import assert_same_batch, killed_after
from miniatures import whole

from cssm.core.errors import DataError, UsageError
from cssm.data import FeatureTracker, Pathfinder, PathTracker
from cssm.data.formats.manifest import verify
from cssm.data.formats.pathfinder import PathfinderFiles
from cssm.data.formats.pathtracker import PathTrackerFiles
from cssm.data.formats.stored import StoredFiles
from cssm.data.make import make

CONFIGS = [
    PathTracker(frames=5, distractors=2),
    Pathfinder(difficulty=9, size=32),
    FeatureTracker(frames=4, distractors=1),
]
SPLITS = {"train": 7, "val": 3}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("format", ["arrayrecord", "tfrecord"])
def test_read_back_equals_the_generator(tmp_path, config, format):
    folder = make(config, out=tmp_path, splits=SPLITS, seed=4, format=format, shard_size=3)
    for split, size in SPLITS.items():
        stored = StoredFiles(root=folder).source(split)
        assert_same_batch(whole(stored), whole(config.source(split, size=size, seed=4)))
    assert verify(folder) == 10
    metadata = json.loads((folder / "metadata.json").read_text())
    assert [s["samples"] for s in metadata["splits"]["train"]] == [3, 3, 1]
    assert metadata["train_samples"] == 7 and metadata["val_shards"] == 1 and metadata["train_ratio"] == 0.7
    assert not list(folder.rglob("*.part*"))


def test_readers_of_the_published_files_read_it(tmp_path):
    tracker, finder = CONFIGS[:2]
    make(tracker, out=tmp_path / "a", splits=SPLITS, format="tfrecord")
    make(finder, out=tmp_path / "b", splits=SPLITS, format="tfrecord")
    assert (tmp_path / "b" / "difficulty_9" / "val" / "shard_00000.tfrecord").is_file()
    assert (tmp_path / "a" / "val" / "shard_0000.tfrecord").is_file()
    published = whole(PathTrackerFiles(root=tmp_path / "a").source("val"))
    assert_same_batch(published, whole(tracker.source("val", size=3)))
    published = whole(PathfinderFiles(root=tmp_path / "b", layout="tfrecord", difficulty=9).source("val"))
    assert_same_batch(published, whole(finder.source("val", size=3)))


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("format", ["arrayrecord", "tfrecord"])
def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, format):
    options = {"splits": SPLITS, "shard_size": 2, "format": format}
    make(CONFIGS[0], out=tmp_path / "straight", **options)
    written = killed_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        make(CONFIGS[0], out=tmp_path / "broken", **options)
    with pytest.raises(DataError, match="a set that is being made has none yet"):
        StoredFiles(root=tmp_path / "broken").source("train")
    with open(tmp_path / "broken" / "metadata.partial.jsonl", "a") as file:
        file.write('{"name": "train/shard')  # a line cut off by the end of the process
    make(CONFIGS[0], out=tmp_path / "broken", **options)
    assert len(written) == 3 + 4  # two of six shards were kept
    assert bytes_of(tmp_path / "broken") == bytes_of(tmp_path / "straight")
    make(CONFIGS[0], out=tmp_path / "broken", **options)  # finished: nothing to do
    assert len(written) == 7


def test_kill_minus_nine(tmp_path):
    """A real process is killed between shards; the second run gives the files of an undisturbed one."""
    code = (
        "import sys; from pathlib import Path; from cssm.data import PathTracker; from cssm.data.make import make\n"
        "make(PathTracker(frames=32), out=Path(sys.argv[1]), splits={'train': 1200}, shard_size=40)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("a/train/*.arrayrecord"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    journal = (tmp_path / "a" / "metadata.partial.jsonl").read_text().splitlines()
    assert 3 <= len(journal) < 31
    options = {"splits": {"train": 1200}, "shard_size": 40}
    for folder in ("a", "straight"):
        make(PathTracker(frames=32), out=tmp_path / folder, **options)
    assert {k: v for k, v in bytes_of(tmp_path / "a").items() if ".part" not in k} == bytes_of(tmp_path / "straight")


def test_another_set_is_not_overwritten(tmp_path):
    make(CONFIGS[0], out=tmp_path, splits=SPLITS)
    with pytest.raises(UsageError, match="is of a set with seed 0, not 1"):
        make(CONFIGS[0], out=tmp_path, splits=SPLITS, seed=1)
    with pytest.raises(UsageError, match="is of a set with options"):
        make(PathTracker(frames=6), out=tmp_path, splits=SPLITS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no set"):
        make(CONFIGS[0], out=tmp_path / "other", splits=SPLITS)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"splits": {"valid": 3}}, "valid"), ({"format": "zip"}, "zip"), ({"splits": {"val": 0}}, "samples of val")],
)
def test_bad_arguments_are_usage_errors(tmp_path, options, named):
    with pytest.raises(UsageError, match=named):
        make(CONFIGS[0], out=tmp_path / "x", **{"splits": SPLITS, **options})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("format", ["arrayrecord", "tfrecord"])
def test_damage_is_found(tmp_path, format):
    folder = make(CONFIGS[0], out=tmp_path, splits=SPLITS, format=format, shard_size=3)
    shard = folder / "train" / ("shard_00001.arrayrecord" if format == "arrayrecord" else "shard_0001.tfrecord")
    data = bytearray(shard.read_bytes())
    shard.write_bytes(data[:-1000])
    with pytest.raises(DataError, match=rf"{shard.name}: its checksum differs"):
        verify(folder)
    with pytest.raises(DataError, match=shard.name):
        whole(StoredFiles(root=folder).source("train"))
    lenient = StoredFiles(root=folder, skip_corrupt=True).source("train")
    kept = whole(lenient)
    assert len(lenient) == (4 if format == "arrayrecord" else 6) and kept["valid"].all()
    assert len(lenient.left_out) == 1 and shard.name in lenient.left_out[0]
    shard.unlink()
    for read in (verify, lambda root: StoredFiles(root=root).source("train")):
        with pytest.raises(DataError, match=rf"{shard.name}: missing"):
            read(folder)


def test_metadata_cannot_lead_elsewhere(tmp_path):
    folder = make(CONFIGS[0], out=tmp_path / "set", splits=SPLITS)
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata["splits"]["train"][0]["name"] = "../outside.arrayrecord"
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(DataError, match="leads out of"):
        StoredFiles(root=folder).source("train")
    for text in ("[]", "{", "{}", '{"format": "zip", "seed": 0, "dataset": "x", "splits": {}}'):
        (folder / "metadata.json").write_text(text)
        with pytest.raises(DataError, match="not the metadata of a made set"):
            StoredFiles(root=folder).source("train")
