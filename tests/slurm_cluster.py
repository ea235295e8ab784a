"""A Slurm of one node, started for a test and stopped behind it; needs root, munge and slurm-wlm.

with slurm_cluster(folder, cpus=2) as slurm:
    slurm.call("srun", "-n", "2", "hostname")
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

NEEDED = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "sinfo")
FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin")  # where daemons lie, outside the PATH of some users
PATIENCE = 60  # seconds for a daemon to answer
NODE = "localhost"  # a name that resolves: jax.distributed looks for process 0 there

MUNGE = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=5
MailProg=/bin/true
SlurmdParameters=config_overrides
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={node} Default=YES OverSubscribe=FORCE:2 MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here, in words for `pytest.skip`; None where there can be one."""
    if absent := [name for name in NEEDED if program(name) is None]:
        return f"{', '.join(absent)} not installed: apt-get install slurm-wlm munge"
    if os.geteuid():
        return "the daemons of Slurm start as root only"
    return None


def program(name: str) -> str | None:
    """Its path, where it is installed."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS]))


class Slurm:
    """A running cluster: `environment` is what its commands need to find it, and nothing of a job around the tests."""

    def __init__(self, folder: Path):
        outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.folder, self.environment = folder, outside | {"SLURM_CONF": str(folder / "slurm.conf")}

    def command(self, name: str, *words: Any) -> list[str]:
        return [str(program(name)), *map(str, words)]

    def call(self, name: str, *words: Any, limit: float = PATIENCE) -> str:
        """What a command of Slurm prints. Raises AssertionError, with its words, when it fails."""
        done = subprocess.run(
            self.command(name, *words), env=self.environment, timeout=limit, capture_output=True, text=True
        )
        if done.returncode:
            raise AssertionError(f"{name} {' '.join(map(str, words))}: {done.stderr}{done.stdout}")
        return done.stdout

    def logs(self) -> str:
        """The end of what each daemon wrote."""
        parts = (f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))
        return "\n".join(parts)


@contextmanager
def slurm_cluster(folder: Path, *, cpus: int = 2) -> Iterator[Slurm]:
    """One node, of so many CPUs, each shared by two tasks; its jobs and daemons end with the `with`.

    Raises AssertionError, with what the daemons wrote, when it does not come up.
    """
    slurm = Slurm(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = free_ports(2)
    facts = {"node": NODE, "host": socket.gethostname().partition(".")[0], "folder": folder, "cpus": cpus}
    text = CONFIGURATION.format(controller_port=ports[0], node_port=ports[1], **facts)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    own = [f"--{what}={folder}/munge.{end}" for what, end in MUNGE.items()]
    with ExitStack() as stack:
        _start(stack, slurm, "munged", "--foreground", "--force", *own)
        _until(lambda: (folder / "munge.socket").exists(), slurm)
        _start(stack, slurm, "slurmctld", "-D", "-i")
        _start(stack, slurm, "slurmd", "-D", "-N", NODE)
        _until(lambda: slurm.call("sinfo", "-h", "-o", "%t").strip() in ("idle", "mix", "alloc"), slurm)
        stack.callback(_cancel_all, slurm)
        yield slurm


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _start(stack: ExitStack, slurm: Slurm, name: str, *words: str) -> None:
    log = stack.enter_context((slurm.folder / f"{name}.log").open("w"))
    daemon = subprocess.Popen(slurm.command(name, *words), env=slurm.environment, stdout=log, stderr=log)
    stack.callback(_stop, daemon)


def _stop(daemon: subprocess.Popen) -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _until(true: Any, slurm: Slurm) -> None:
    end, told = time.monotonic() + PATIENCE, ""
    while time.monotonic() < end:
        try:
            if true():
                return
        except (AssertionError, subprocess.TimeoutExpired) as error:
            told = str(error)
        time.sleep(0.2)
    raise AssertionError(f"the cluster does not come up within {PATIENCE} s: {told}\n{slurm.logs()}")


def _cancel_all(slurm: Slurm) -> None:
    """Its jobs, running or not; returns when they are gone."""
    slurm.call("scancel", "--partition=all")
    try:
        _until(lambda: not slurm.call("squeue", "-h", "-o", "%i").strip(), slurm)
    except AssertionError:
        slurm.call("scancel", "--signal=KILL", "--partition=all")
