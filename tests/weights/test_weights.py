"""The models that ship: whole, of the sizes they say, and as good as their record says."""

import importlib
import shutil

import numpy as np
import pytest

import cssm
from cssm.core.errors import DataError, UnknownNameError, UsageError
from cssm.recipes.points import answers, as_standing_still, score_all
from cssm.weights import FOLDER, find_tracker, pack, pretrained, read

NAMES = cssm.list_pretrained()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_says_where_it_comes_from(name):
    held = pretrained(name)
    assert (FOLDER / f"{name}.safetensors").stat().st_size <= 3_000_000
    assert {"commit", "seed", "data", "score", "command"} <= held.record.keys()
    assert type(held.model).__module__.startswith("cssm.models")


def test_damage_is_found(tmp_path):
    from safetensors.numpy import load_file, save_file

    data = bytearray((FOLDER / f"{NAMES[0]}.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "a.safetensors").write_bytes(bytes(data))
    with pytest.raises(DataError, match="is damaged: its arrays do not match their checksum"):
        read(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(bytes(data[:1000]))
    with pytest.raises(DataError, match="is no file of a trained model"):
        read(tmp_path / "a.safetensors")
    with pytest.raises(DataError, match="is no file of a trained model"):
        read(tmp_path / "none.safetensors")
    arrays = load_file(FOLDER / f"{NAMES[0]}.safetensors")
    save_file(arrays, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match="is damaged"):
        read(tmp_path / "b.safetensors")


def test_arrays_of_another_model_are_refused(tmp_path):
    import safetensors
    from safetensors.numpy import save_file

    module = importlib.import_module("cssm.weights")
    with safetensors.safe_open(FOLDER / "tracker_small.safetensors", "numpy") as file:
        about, arrays = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    name = next(iter(arrays))
    for changed in (arrays | {name: arrays[name][..., :1]}, {k: v for k, v in arrays.items() if k != name}):
        changed = {k: np.ascontiguousarray(v) for k, v in changed.items()}
        save_file(changed, tmp_path / "a.safetensors", metadata=about | {"sha256": module.checksum(changed)})
        with pytest.raises(DataError, match=f"{name} has shape"):
            read(tmp_path / "a.safetensors")


def test_names_are_known():
    with pytest.raises(UnknownNameError, match="did you mean 'tracker_small'"):
        cssm.load_pretrained("tracker_smal")
    with pytest.raises(UsageError, match="has one set of parameters"):
        find_tracker("tracker_small", "last")
    assert find_tracker("tracker_small").config == pretrained("tracker_small").run.model


def test_a_run_is_packed_and_read_back(tmp_path):
    from cssm.cli import main

    words = [
        "train",
        "digits",
        "--steps",
        "1",
        "--batch-size",
        "8",
        "--train-size",
        "16",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    path = pack(tmp_path / "run", tmp_path / "new" / "a.safetensors", {"score": 1})
    held, (run, model) = read(path), cssm.load_run(tmp_path / "run")
    assert held.run == run and held.record == {"score": 1}
    x = np.random.RandomState(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(held.model(x), model(x))
    shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize(("name", "videos"), [("easy", 3), pytest.param("hard", 20, marks=pytest.mark.slow)])
def test_the_tracker_is_as_good_as_its_record(name, videos):
    """On the first videos of the frozen set: the score that the record has for them, and well above standing still."""
    pytest.importorskip("skimage")
    from itertools import islice

    from cssm.data.tracks import frozen

    held = pretrained("tracker_small")
    clips = list(islice(frozen(f"synthetic-v1-{name}"), videos))
    said = list(answers(lambda video, queries: held.model.track(video, queries, side=None), clips))
    found, static = score_all(said), score_all(map(as_standing_still, said))
    expected = np.mean(held.record["jaccard"][f"synthetic-v1-{name}"][:videos])
    assert found.mean["average_jaccard"] == pytest.approx(expected, abs=0.01)
    assert found.mean["average_jaccard"] > 1.3 * static.mean["average_jaccard"]
