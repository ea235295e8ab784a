"""Several processes are one run: same curve as one process, one writer, one step to stop at, one message at the end.

The processes talk over gloo on this machine. Each has a hard time limit.
"""

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from process_toys import AUGMENT, OPTIONS, census
from train_toys import assert_same_curve, curve, fit, parameters, tiny

from cssm.core.errors import UsageError
from cssm.train import Interrupted, cluster, join, load_model
from cssm.train.agree import AgreedStop
from cssm.train.checkpoint import CheckpointStore
from cssm.train.cluster import Alone
from cssm.train.distributed import global_mesh
from cssm.train.manifest import damage
from cssm.train.peers import Peers

LIMIT = 150  # seconds for any process; on an idle machine they need ten
TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
CHILD = str(Path(__file__).with_name("process_toys.py"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Ended:
    """A process that has ended: its code, and what it printed."""

    def __init__(self, child, out, err):
        self.code, self.out, self.lines = child.returncode, out, err.splitlines()


def finish(children):
    """Wait for all, and leave none behind."""
    until = time.monotonic() + LIMIT
    try:
        return [Ended(c, *c.communicate(timeout=max(until - time.monotonic(), 1))) for c in children]
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()


def start(*command, **environment):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.Popen([sys.executable, *map(str, command)], env=environment, **pipes)


def play(folder, *scenes, count=2, **environment):
    """Two processes, or another number, that play the scenes."""
    port = free_port()
    return finish([start(CHILD, index, count, port, folder, *scenes, **environment) for index in range(count)])


def told(folder, scene):
    """What each of two processes had of a scene."""
    return [json.loads((folder / f"{scene}-{index}.json").read_text()) for index in range(2)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run in one process: 12 steps, evaluations at 4, 8, 12, saves at 5, 10."""
    run_dir = tmp_path_factory.mktemp("one") / "whole"
    fit(run_dir, options=OPTIONS)
    return run_dir


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes that play: a whole run, the rest of a run that one process began, runs stopped by a signal."""
    folder = tmp_path_factory.mktemp("two")
    stop = lambda event: os.kill(os.getpid(), signal.SIGTERM) if event.step == 5 and event.kind == "log" else None  # noqa: E731
    with pytest.raises(Interrupted):
        fit(folder / "resumed", options=OPTIONS, callbacks=[stop])
    shutil.copytree(folder / "resumed", folder / "damaged")
    newest = max((folder / "damaged" / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    (newest / "facts.json").write_text("{}")
    ended = play(folder, "whole", "resumed", "damaged", "stopped", "stopped_evaluating", "census")
    assert [process.code for process in ended] == [0, 0], ended[0].lines + ended[1].lines
    return folder, ended


def test_two_processes_are_one_run(pair, whole):
    folder, _ = pair
    assert_same_curve(folder / "whole", whole)
    stores = (CheckpointStore(run_dir / "checkpoints") for run_dir in (folder / "whole", whole))
    two, one = (store.restore("last")[0] for store in stores)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_every_process_has_the_same_figures_and_each_row_counts_once(pair, whole):
    first, second = told(pair[0], "whole")
    assert first == second
    assert first["figures"]["count"] == 21 and {record["count"] for record in first["history"]} == {21}
    best = tiny()
    load_model(whole, best)
    for name, value in parameters(best).items():
        np.testing.assert_allclose(first["weights"][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_process_0_alone_writes_and_speaks(pair):
    folder, (first, second) = pair
    assert not Path("nowhere").exists() and (folder / "whole" / "environment.json").exists()
    steps = [(record["kind"], record["step"]) for record in curve(folder / "whole")]
    assert len(steps) == len(set(steps)) == 12 + 3
    assert second.lines == [] and second.out == first.out == ""
    assert any(line.startswith("step 12/12: validation") for line in first.lines)
    facts = json.loads((folder / "whole" / "environment.json").read_text())
    assert facts["processes"] == 2 and len(facts["devices"]) == 2


def test_two_processes_go_on_where_one_stopped(pair, whole):
    assert_same_curve(pair[0] / "resumed", whole)


def test_checkpoints_of_two_processes_are_checksummed_and_a_damaged_one_is_passed_over(pair, whole):
    folder, (first, second) = pair
    saved = list((folder / "whole" / "checkpoints").glob("step_*"))
    assert len(saved) > 1 and [damage(path) for path in saved] == [None] * len(saved)
    warned = [line for line in first.lines if "is damaged" in line]
    assert len(warned) == 1 and "facts.json does not match its checksum" in warned[0] and second.lines == []
    assert_same_curve(folder / "damaged", whole)


def test_a_thousand_samples_are_counted_once_each(pair):
    one, other = told(pair[0], "census")
    alone = census(0, 1)
    assert one["seen"] == other["seen"] == alone["seen"] == [1] * 1000
    assert one["logits"] == other["logits"] == pytest.approx(alone["logits"], rel=1e-5)


def test_a_signal_to_one_process_stops_all_at_one_step_and_one_process_goes_on(pair, whole):
    folder, (first, _) = pair
    one, other = told(folder, "stopped")
    assert one == other and one["code"] == 130 and 4 <= one["stopped"] < 12
    step, run_dir = one["stopped"], folder / "stopped"
    assert f"interrupted: step {step} is saved in {run_dir}; to go on, run it again" in first.lines
    assert CheckpointStore(run_dir / "checkpoints").steps()[-1] == step
    fit(run_dir, options=OPTIONS, resume=True)
    assert_same_curve(run_dir, whole)


def test_a_signal_during_an_evaluation_stops_all_at_one_batch(pair, whole):
    one, other = told(pair[0], "stopped_evaluating")
    assert one["stopped"] == other["stopped"] == 4 and one["code"] == other["code"] == 130
    assert max(one["batches"], other["batches"]) < 15  # of the first pass
    run_dir = pair[0] / "stopped_evaluating"
    assert not [record for record in curve(run_dir) if record["kind"] == "eval"]
    fit(run_dir, options=OPTIONS, resume=True)
    assert_same_curve(run_dir, whole)


def test_a_coordinator_that_does_not_answer_is_named(tmp_path):
    """And, on process 0, the others that do not come."""
    ports = [free_port(), free_port()]
    where = lambda index: ["--coordinator", f"127.0.0.1:{ports[index]}", "--processes", 2, "--process-id", index]  # noqa: E731
    ended = finish([start("-m", "cssm.cli", "train", "demo", *where(i), "--join-timeout", 1) for i in range(2)])
    assert [process.code for process in ended] == [1, 1] and [len(process.lines) for process in ended] == [1, 1]
    assert f"not all processes came to the coordinator 127.0.0.1:{ports[0]} within 1 s" in ended[0].lines[0]
    assert f"the coordinator 127.0.0.1:{ports[1]} does not answer within 1 s: start process 0" in ended[1].lines[0]


def test_what_cannot_be_joined_is_told_at_once(monkeypatch):
    assert cluster().count == 1 and cluster().first(lambda: (1, 2)) == (1, 2)
    with pytest.raises(UsageError, match="belong together"), join(processes=2):
        pass
    with pytest.raises(UsageError, match="give HOST:PORT of process 0"), join("node1", 2, 0):
        pass
    with pytest.raises(UsageError, match="process_id is 2 of 2"), join("node1:1234", 2, 2):
        pass
    for timeout in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="give some seconds"), join("node1:1234", 2, 1, timeout=timeout):
            pass


def test_a_batch_that_does_not_divide_is_refused(tmp_path, monkeypatch):
    class Three(Alone):
        count = 3

    monkeypatch.setattr("cssm.train.trainer.cluster", Three)
    with pytest.raises(UsageError, match="batch_size 8 does not divide over 3 processes: choose a multiple"):
        fit(tmp_path)


def test_processes_with_different_numbers_of_devices_are_refused(monkeypatch):
    devices = [SimpleNamespace(process_index=process, id=i) for i, process in enumerate([0, 1, 1])]
    monkeypatch.setattr("cssm.train.distributed.jax.devices", lambda: devices)
    with pytest.raises(UsageError, match=r"process 0: 1, process 1: 2\): give each as many"):
        global_mesh()


class Store(dict):
    """The key-value store of a coordinator, in this process."""

    def key_value_set(self, key, value, allow_overwrite=False):
        self[key] = value

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.items() if name.startswith(f"{key}/")]

    def blocking_key_value_get(self, key, _):
        return self[key]


def test_processes_at_different_places_agree_on_one_that_none_has_passed():
    store = Store()
    peers = [Peers(index, 2, store) for index in range(2)]  # whose threads have not begun to look
    behind, ahead = (AgreedStop(each, 0) for each in peers)
    assert not any(behind.here(asked=True) for _ in range(3))  # nobody has answered yet
    assert not any(ahead.here(asked=False) for _ in range(5))
    for each in peers:
        each.look()
    assert [behind.here(asked=True) for _ in range(3)] == [False, False, True]
    assert ahead.here(asked=False)


def test_a_process_without_a_sign_of_life_is_seen_and_one_that_said_goodbye_is_not_missed():
    store = Store({f"cssm/life/{process}": "0" for process in range(4)})
    peers = Peers(0, 4, store)
    assert peers._silent(0.0) == []  # seen for the first time
    time.sleep(0.01)
    store |= {"cssm/life/1": "1", "cssm/life/2": "away"}
    assert peers._silent(0.005) == [3]


ENDINGS = {  # scene: what process 0 and process 1 say last
    "killed": ["process 1 died", None],
    "damaged_data": ["process 1 failed: shard 3 is damaged", "shard 3 is damaged"],
    "out_of_memory": ["process 1 failed: out of memory with 4 rows at a time", "repeat with --accumulate 4"],
    "coordinator_killed": [None, "JAX distributed service detected fatal errors"],  # in JAX's words: it is quicker
}


@pytest.mark.slow
@pytest.mark.parametrize("scene", ENDINGS)
def test_the_end_of_one_process_is_the_end_of_all_and_can_be_resumed(scene, tmp_path, whole):
    began = time.monotonic()
    for process, words in zip(play(tmp_path, scene), ENDINGS[scene], strict=True):
        if words is None:
            assert process.code == -signal.SIGKILL
            continue
        assert process.code != 0 and sum(words in line for line in process.lines) == 1, process.lines
        if scene != "coordinator_killed":
            assert [line for line in process.lines if not line.startswith("step ")] == process.lines[-1:]
    assert time.monotonic() - began < LIMIT
    assert CheckpointStore(tmp_path / scene / "checkpoints").steps()[-1] < 12
    shutil.copytree(tmp_path / scene, tmp_path / "resumed")
    fit(tmp_path / scene, options=OPTIONS, resume=True)
    ended = play(tmp_path, "resumed")
    assert [process.code for process in ended] == [0, 0], ended[0].lines + ended[1].lines
    for run_dir in (tmp_path / scene, tmp_path / "resumed"):
        assert_same_curve(run_dir, whole)


def slurm(index, port):
    """As srun sets it; the port follows from the job's number."""
    job = {"SLURM_JOB_ID": str(4096 + port % 2**12), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    return job | {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}


def open_mpi(index, port):
    """As mpirun sets it."""
    job = {"OMPI_MCA_orte_hnp_uri": f"{2**12 * (port % 2**12)}.0;tcp://127.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2"}
    return job | {"OMPI_COMM_WORLD_RANK": str(index), "OMPI_COMM_WORLD_LOCAL_RANK": str(index)}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [slurm, open_mpi])
def test_a_launcher_says_who_is_who(launcher, tmp_path, whole):
    port = free_port()
    ended = finish([start(CHILD, "-", "-", "-", tmp_path, "whole", **launcher(i, port)) for i in range(2)])
    assert [process.code for process in ended] == [0, 0], ended[0].lines + ended[1].lines
    assert_same_curve(tmp_path / "whole", whole)


@pytest.mark.slow
def test_two_processes_draw_the_augmentation_of_one(tmp_path, whole):
    """Rows are mixed with those of the other process."""
    ended = play(tmp_path, "augmented")
    assert [process.code for process in ended] == [0, 0], ended[0].lines + ended[1].lines
    fit(tmp_path / "one", options=OPTIONS, augment=AUGMENT)
    assert curve(tmp_path / "one")[0]["loss"] != pytest.approx(curve(whole)[0]["loss"], rel=1e-3)
    assert_same_curve(tmp_path / "augmented", tmp_path / "one", 1e-5)


@pytest.mark.slow
def test_unequal_numbers_of_devices_are_told_by_every_process(tmp_path):
    port = free_port()
    ended = finish([start(CHILD, 0, 2, port, tmp_path, **TWO_DEVICES), start(CHILD, 1, 2, port, tmp_path)])
    for process in ended:
        assert process.code == 2 and len(process.lines) == 1, process.lines
        assert "error: the processes have different numbers of devices (process 0: 2, process 1: 1)" in process.lines[0]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed: apt-get install openmpi-bin")
def test_open_mpi_starts_a_run(tmp_path, whole):
    words = [sys.executable, CHILD, "-", "-", "-", tmp_path, "whole"]
    freely = {f"OMPI_ALLOW_RUN_AS_ROOT{end}": "1" for end in ("", "_CONFIRM")}
    command = ["mpirun", "-n", "2", "--oversubscribe", *map(str, words)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | freely
    subprocess.run(command, env=environment, check=True, timeout=LIMIT)
    assert json.loads((tmp_path / "whole" / "environment.json").read_text())["processes"] == 2
    assert_same_curve(tmp_path / "whole", whole)


@pytest.mark.slow
def test_two_processes_of_two_devices_are_one_run(tmp_path, whole):
    ended = play(tmp_path, "whole", **TWO_DEVICES)
    assert [process.code for process in ended] == [0, 0], ended[0].lines + ended[1].lines
    facts = json.loads((tmp_path / "whole" / "environment.json").read_text())
    assert facts["processes"] == 2 and len(facts["devices"]) == 4
    assert_same_curve(tmp_path / "whole", whole)


@pytest.mark.slow
@pytest.mark.parametrize("first, then", [((1, TWO_DEVICES), (2, {})), ((2, {}), (1, TWO_DEVICES))])
def test_devices_of_one_process_or_of_two_go_on_with_each_others_runs(first, then, tmp_path, whole):
    """One process of two devices, two of one."""
    count, environment = first
    ended = play(tmp_path, "stopped_by_0", count=count, **environment)
    stopped = [json.loads((tmp_path / f"stopped_by_0-{i}.json").read_text())["stopped"] for i in range(count)]
    assert 4 <= stopped[0] < 12 and len(set(stopped)) == 1, [process.lines for process in ended]
    (tmp_path / "stopped_by_0").rename(tmp_path / "resumed")
    count, environment = then
    ended = play(tmp_path, "resumed", count=count, **environment)
    assert [process.code for process in ended] == [0] * count, [process.lines for process in ended]
    facts = json.loads((tmp_path / "resumed" / "environment.json").read_text())
    assert (facts["processes"], len(facts["devices"])) == (count, 2)
    assert_same_curve(tmp_path / "resumed", whole)


@pytest.mark.slow
def test_the_command_line_gives_the_run_of_one_process(tmp_path):
    words = ["demo", "--steps", 6, "--batch-size", 8, "--train-size", 64, "--val-size", 21, "--log-every", 1]
    train = ["-m", "cssm.cli", "train", *words, "--out"]
    together = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", 2, "--process-id"]
    ended = finish([start(*train, tmp_path / "two", *together, index) for index in range(2)])
    ended += finish([start(*train, tmp_path / "one")])
    assert [process.code for process in ended] == [0, 0, 0], [process.lines for process in ended]
    assert_same_curve(tmp_path / "two", tmp_path / "one")
    assert (tmp_path / "two" / "config.json").read_text() == (tmp_path / "one" / "config.json").read_text()
    summaries = [json.loads(ended[i].out.splitlines()[-1]) for i in (0, 2)]
    assert summaries[0]["val_accuracy"] == summaries[1]["val_accuracy"]
    assert ended[1].out == "" and ended[1].lines == []
