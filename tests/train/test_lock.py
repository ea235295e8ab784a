"""A run folder belongs to one process: a second one is told whose it is, and what a dead one left is taken over."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest
from train_toys import fit

from cssm.core.errors import UsageError
from cssm.train import holding, lock

HOLD = """
import pathlib, sys, time
from cssm.train.lock import holding
with holding(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()


def test_a_second_process_is_told_whose_the_folder_is_and_a_dead_one_is_succeeded(other, tmp_path, capsys):
    owner = json.loads((tmp_path / lock.NAME).read_text())
    assert owner["pid"] == other.pid and owner["time"].startswith(time.strftime("%Y-"))
    told = f"{tmp_path} is in use by process {other.pid} on {owner['host']} since {owner['time']}: wait for its end"
    before = sorted(path.name for path in tmp_path.iterdir())
    for resume in (False, True):
        with pytest.raises(UsageError) as refused:
            fit(tmp_path, resume=resume)
        assert told in str(refused.value) and "\n" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before  # nothing was touched
    other.kill()
    other.wait()
    assert fit(tmp_path)[0].final_step == 12
    lines = [line for line in capsys.readouterr().err.splitlines() if "left locked" in line]
    assert len(lines) == 1 and f"process {other.pid} on" in lines[0] and "takes it over" in lines[0]
    assert not (tmp_path / lock.NAME).exists()


def without_flock(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)


def test_where_the_kernel_keeps_no_locks_the_process_number_counts(other, tmp_path, monkeypatch, capsys):
    without_flock(monkeypatch)
    with pytest.raises(UsageError, match=f"in use by process {other.pid}"), holding(tmp_path):
        pass
    path = tmp_path / lock.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": "a process of this number, but another"}))
    with holding(tmp_path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert "takes it over" in capsys.readouterr().err


@pytest.mark.parametrize("silence, lives", [(lock.SILENCE / 2, True), (2 * lock.SILENCE, False)])
def test_on_another_machine_the_sign_of_life_counts(tmp_path, silence, lives, capsys):
    path = tmp_path / lock.NAME
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "time": "yesterday", "machine": ["elsewhere"]}))
    os.utime(path, (time.time() - silence,) * 2)
    if lives:
        with pytest.raises(UsageError, match="in use by process 7 on elsewhere since yesterday"), holding(tmp_path):
            pass
        return
    with holding(tmp_path):
        pass
    assert "process 7 on elsewhere since yesterday, which is gone" in capsys.readouterr().err


def test_the_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with holding(tmp_path):
        os.utime(tmp_path / lock.NAME, (0, 0))
        until = time.time() + 10
        while (tmp_path / lock.NAME).stat().st_mtime < 1 and time.time() < until:
            time.sleep(0.01)
        assert time.time() - (tmp_path / lock.NAME).stat().st_mtime < 60


def test_what_a_killed_owner_half_wrote_is_no_owner(tmp_path):
    (tmp_path / lock.NAME).write_text('{"host": "no')
    with holding(tmp_path), holding(tmp_path):  # twice, by its own thread
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="early"), holding(tmp_path / "runs" / "a"):
        raise RuntimeError("early")
    assert list(tmp_path.iterdir()) == []
