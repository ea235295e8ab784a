import json
import pickle
import shutil
import threading

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from cssm.core.errors import CheckpointError
from cssm.train import checkpoint
from cssm.train.checkpoint import CheckpointStore, check_leaves
from cssm.train.manifest import damage


def arrays(step=1):
    return {
        "params/blocks/0/out/kernel": np.full((30, 40), step, np.float32),
        "opt/0/count": np.array(step, np.int32),
        "params/w": np.array([1 + 2j, step], np.complex64),
        "params/half": np.array([0.1, step], ml_dtypes.bfloat16),
        "key": np.array([1, 2**32 - 1], np.uint32),
        "params/none": np.zeros((0, 3), np.float32),
    }


def fill(folder, steps, *, keep=3, best=()):
    with CheckpointStore(folder, keep) as store:
        for step in steps:
            store.save(step, arrays(step), {"step": step, "data": {"i": [step, None, 0.1]}}, best=step in best)
        store.wait()
    return store


def flip(path, offset=None):
    """One bit of one byte, in the middle unless told otherwise."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if offset is None else offset] ^= 1
    path.write_bytes(data)


def test_every_array_comes_back_bit_for_bit(tmp_path):
    store = fill(tmp_path, [3])
    got, facts = store.restore("last")
    assert facts == {"step": 3, "data": {"i": [3, None, 0.1]}}
    assert set(got) == set(arrays())
    for name, want in arrays(3).items():
        assert got[name].dtype == want.dtype and got[name].shape == want.shape
        assert got[name].tobytes() == want.tobytes()


def test_the_newest_and_the_best_are_kept(tmp_path):
    store = fill(tmp_path, [0, 5, 10, 15, 20], keep=2, best=[5, 10])
    assert store.steps() == [10, 15, 20] and store.best_step() == 10
    assert int(store.restore("best")[0]["opt/0/count"]) == 10
    assert int(store.restore("last")[0]["opt/0/count"]) == 20
    assert int(store.restore(15)[0]["opt/0/count"]) == 15


def test_a_step_is_replaced_by_a_second_save(tmp_path):
    fill(tmp_path, [1, 2])
    with CheckpointStore(tmp_path) as store:
        store.save(2, arrays(7), {"step": 2})
        store.wait()
        assert int(store.restore(2)[0]["opt/0/count"]) == 7 and store.steps() == [1, 2]


def test_what_is_saved_is_what_was_there_at_the_call(tmp_path):
    """The CPU backend hands out views of its buffers, and steps overwrite them."""
    value, on_device = np.ones(4, np.float32), jnp.ones(4)
    with CheckpointStore(tmp_path) as store:
        store.save(1, {"host": value, "device": on_device}, {})
        value[:] = 5
        on_device.delete()
        store.wait()
        got, _ = store.restore(1)
    assert got["host"].tolist() == got["device"].tolist() == [1] * 4


def test_a_flipped_byte_is_found_in_every_file(tmp_path):
    fill(tmp_path / "whole", [1])
    whole = tmp_path / "whole" / "step_1"
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert len(files) > 6 and damage(whole) is None
    for name in files:
        copy = tmp_path / "copy"
        shutil.copytree(whole, copy)
        flip(copy / name)
        assert damage(copy), name
        shutil.rmtree(copy)
    shutil.copytree(whole, copy := tmp_path / "copy")
    (copy / "facts.json").unlink()
    assert damage(copy) == "facts.json is missing"
    shutil.copy(whole / "facts.json", copy)
    (copy / "more").touch()
    assert damage(copy) == "more is not in MANIFEST.json"


@pytest.mark.parametrize("harm", ["flip", "truncate", "no manifest", "empty folder"])
def test_damage_means_one_warning_and_the_step_before(tmp_path, harm, caplog, capfd):
    store = fill(tmp_path, [1, 2, 3])
    folder = tmp_path / "step_3"
    victim = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    if harm == "flip":
        flip(victim)
    elif harm == "truncate":
        victim.write_bytes(victim.read_bytes()[:-10])
    elif harm == "no manifest":
        (folder / "MANIFEST.json").unlink()
    else:
        shutil.rmtree(folder)
        folder.mkdir()
    got, facts = store.restore_newest()
    assert facts["step"] == 2 and int(got["opt/0/count"]) == 2
    assert len(caplog.records) == 1 and "step_3 is damaged" in caplog.text and caplog.text.count("\n") == 1
    noise = capfd.readouterr()
    assert len((noise.out + noise.err).splitlines()) <= 1
    with pytest.raises(CheckpointError, match=r"step_3 is damaged .* choose another, of \[1, 2, 3\]"):
        store.restore("last")


def test_no_good_step_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="there is none"):
        CheckpointStore(tmp_path / "nothing").restore_newest()
    store = fill(tmp_path, [1, 2])
    for step in (1, 2):
        flip(tmp_path / f"step_{step}" / "facts.json")
    with pytest.raises(CheckpointError, match=r"all of \[1, 2\] are damaged"):
        store.restore_newest()


def test_asking_for_what_is_not_there_names_what_is(tmp_path):
    store = fill(tmp_path, [1, 2])
    for which in (7, "first"):
        with pytest.raises(CheckpointError, match=r"choose best, last or one of \[1, 2\]"):
            store.restore(which)
    with pytest.raises(CheckpointError, match=r"no best checkpoint .* steps \[1, 2\]"):
        store.restore("best")
    (tmp_path / "best.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"best\.json is damaged"):
        store.restore("best")


def test_what_a_killed_save_leaves_is_ignored_and_cleaned(tmp_path):
    store = fill(tmp_path, [1])
    half = tmp_path / ".tmp-2"
    shutil.copytree(tmp_path / "step_1", half)
    (half / "MANIFEST.json").unlink()
    (tmp_path / ".tmp-removed-0").mkdir()
    assert store.steps() == [1] and store.restore_newest()[1]["step"] == 1
    store.clean()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_1"]


def test_damaged_later_steps_are_set_aside_not_counted(tmp_path):
    fill(tmp_path, [1, 2, 3])
    with CheckpointStore(tmp_path, keep=1) as store:
        store.set_aside_after(1)
        store.save(2, arrays(2), {"step": 2})
        store.wait()
        assert store.steps() == [2]
    assert {"damaged_2", "damaged_3"} <= {path.name for path in tmp_path.iterdir()}


def test_a_save_that_fails_says_so_at_the_next_call(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with CheckpointStore(tmp_path / "file" / "checkpoints") as store:
        store.save(1, arrays(), {})
        with pytest.raises(CheckpointError, match="cannot write the checkpoint of step 1"):
            store.save(2, arrays(), {})


def test_threads_of_orbax_print_no_page_of_their_own(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    checkpoint._hush_threads_of_orbax.cache_clear()

    class Foreign(threading.Thread):
        __module__ = "orbax.checkpoint._src.futures.future"

    fill(tmp_path, [1])
    for kind in (Foreign, threading.Thread):
        thread = kind(target=lambda: 1 / 0, name=kind.__name__)
        thread.start()
        thread.join()
    assert "Exception in thread Thread" in (said := capsys.readouterr().err) and "Foreign" not in said


def test_facts_that_are_not_json_are_refused_at_the_call(tmp_path):
    with CheckpointStore(tmp_path) as store, pytest.raises(TypeError):
        store.save(1, arrays(), {"state": object()})


def test_no_pickle(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(np, "save", refuse)
    fill(tmp_path, [1]).restore(1)
    assert json.loads((tmp_path / "step_1" / "MANIFEST.json").read_text())["sha256"]


def test_the_first_leaf_that_differs_is_named():
    saved = arrays()
    check_leaves(saved, arrays(9), "it")
    wider = saved | {"opt/0/count": np.zeros(2, np.int32), "key": np.zeros(3, np.uint32)}
    with pytest.raises(CheckpointError, match=r"it has opt/0/count as int32\[\], the model needs int32\[2\]: build"):
        check_leaves(saved, wider, "it")
    with pytest.raises(CheckpointError, match=r"has key as uint32\[2\], the model needs float32\[2\]"):
        check_leaves(saved, saved | {"key": np.zeros(2, np.float32)}, "it")
    with pytest.raises(CheckpointError, match="it has no ema/w, which the model needs"):
        check_leaves(saved, saved | {"ema/w": np.zeros(1)}, "it")
    with pytest.raises(CheckpointError, match="it has params/none, which the model lacks"):
        check_leaves(saved, {name: value for name, value in saved.items() if name != "params/none"}, "it")
