"""A run under a real Slurm of one node that the test starts: the curve of one process, a clear end, any number resumes.

Skipped where slurm-wlm and munge are not installed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train_toys import assert_same_curve

from cssm.train.checkpoint import CheckpointStore
from slurm_cluster import missing, slurm_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.skipif(bool(missing()), reason=str(missing()))]

LIMIT = 300  # seconds for a run; on an idle machine they need twenty
SIZES = ["--embed-dim", 8, "--batch-size", 8, "--train-size", 64, "--val-size", 21]
TIMES = ["--steps", 40, "--eval-every", 20, "--checkpoint-every", 4, "--log-every", 1]
TRAIN = [sys.executable, "-m", "cssm.cli", "train", "demo", *SIZES, *TIMES, "--out"]
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), cpus=2) as slurm:
        slurm.environment |= ENVIRONMENT
        yield slurm


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run in one process, without a scheduler."""
    run_dir = tmp_path_factory.mktemp("one") / "whole"
    subprocess.run([str(word) for word in [*TRAIN, run_dir]], env=os.environ | ENVIRONMENT, check=True, timeout=LIMIT)
    return run_dir


def test_two_tasks_are_one_run(slurm, whole, tmp_path):
    out = slurm.call("srun", "-n", 2, *TRAIN, tmp_path / "two", "--distributed", limit=LIMIT)
    facts = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert facts["processes"] == 2 and len(facts["devices"]) == 2
    assert_same_curve(tmp_path / "two", whole, 1e-5)
    assert json.loads(out.splitlines()[-1]).keys() == json.loads((whole / "summary.json").read_text()).keys()
    assert sum(line.startswith("{") for line in out.splitlines()) == 1  # process 0 alone speaks


ENDINGS = {  # what ends the run: what is said last, once
    "kill 0": "JAX distributed service detected fatal errors",  # in JAX's words: it is quicker
    "kill 1": "cssm: error: process 1 died",
    "scancel": "interrupted: step ",
}


@pytest.mark.parametrize("how", ENDINGS)
def test_a_task_that_is_killed_ends_the_run_and_one_or_two_go_on(slurm, whole, how, tmp_path):
    run_dir = tmp_path / "ended"
    command = slurm.command("srun", "-n", 2, *TRAIN, run_dir, "--distributed")
    srun = subprocess.Popen(command, env=slurm.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + LIMIT
        while not (run_dir / "checkpoints" / "step_8").exists():
            assert srun.poll() is None and time.monotonic() < until, srun.communicate()[1]
            time.sleep(0.005)
        if how == "scancel":
            slurm.call("scancel", *slurm.call("squeue", "-h", "-o", "%i").split())
        else:
            os.kill(task(how[-1], run_dir), signal.SIGKILL)
        _, err = srun.communicate(timeout=LIMIT)
    finally:
        srun.kill()
    told = [line for line in err.splitlines() if ENDINGS[how] in line]
    assert srun.returncode and len(told) == 1, err
    assert how == "kill 0" or ("to go on" in told[0] and "--resume" in told[0])
    assert err.count("cssm: error: ") == (how == "kill 1"), err
    assert 8 <= CheckpointStore(run_dir / "checkpoints").steps()[-1] < 40
    for count in (1, 2):
        copy = tmp_path / f"resumed-by-{count}"
        shutil.copytree(run_dir, copy)
        slurm.call("srun", "-n", count, *TRAIN, copy, "--distributed", "--resume", limit=LIMIT)
        assert json.loads((copy / "environment.json").read_text())["processes"] == count
        assert_same_curve(copy, whole, 1e-5)


def task(number, run_dir):
    """The id of the process that is a task of a step, by what Slurm put in its environment."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            mine = words[1:3] == [b"-m", b"cssm.cli"] and str(run_dir).encode() in words
            if mine and f"SLURM_PROCID={number}".encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
        except OSError:
            continue  # it has ended
    raise AssertionError(f"no process is task {number} of {run_dir}")
