"""One process in a run folder at a time: `lock.json` names its owner, and the kernel knows whether it still holds it.

The kernel's lock (flock) ends with its process, however that ends. Where the file system keeps such locks on one
machine only, or not at all, the owner's sign of life counts: the time of the file, renewed twice a minute.
"""

import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cssm.core.errors import UsageError

from .progress import say

NAME = "lock.json"
BEAT = 30.0  # seconds between two signs of life
SILENCE = 300.0  # seconds without one after which the owner, on a machine that cannot be asked, is taken for gone
Owner = dict[str, Any]  # {"host", "pid", "time", "machine", "started"}
_held: dict[Path, int] = {}  # folder -> the thread of this process that holds it


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """The folder for this process alone, for the length of a `with`; it is made where there is none.

    The thread that holds it may hold it again. What an owner left that is gone is taken over, with a line on stderr.
    Raises UsageError naming the owner that is there.

    >>> with holding(Path(tempfile.mkdtemp())) as nothing, suppress(UsageError):
    ...     nothing is None
    True
    """
    folder = folder.absolute()
    if _held.get(folder) == threading.get_ident():
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        file = _take(folder)
        _held[folder] = threading.get_ident()
        done = threading.Event()
        beat = threading.Thread(target=_beat, args=(file, done), name="cssm-lock", daemon=True)
        beat.start()
        try:
            yield
        finally:
            done.set()
            beat.join()
            del _held[folder]
            (folder / NAME).unlink(missing_ok=True)  # while it is held, so that nobody holds a file without a name
            os.close(file)
    finally:
        with suppress(OSError):  # a run that wrote nothing leaves nothing
            for path in made:
                path.rmdir()


def _take(folder: Path) -> int:
    """The open lock file, with this process as its owner."""
    while True:
        file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            kernel = _flock(file)
            owner = _owner(file)
            if kernel is False or (owner and _lives(owner, folder, file, asked=kernel is True)):
                raise UsageError(f"{folder} is in use by {_named(owner)}: wait for its end, or choose another folder")
            if not _still_there(file, folder / NAME):  # its owner has just ended
                os.close(file)
                continue
            _write(file)
            if owner:
                say(f"{folder} was left locked by {_named(owner)}, which is gone: this process takes it over")
            return file
        except BaseException:
            with suppress(OSError):
                os.close(file)
            raise


def _flock(file: int) -> bool | None:
    """Whether the kernel's lock is ours; None where there is none to be had."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None


def _lives(owner: Owner, folder: Path, file: int, asked: bool) -> bool:
    """Whether the owner is still there. `asked`: the kernel has said that on this machine nobody holds the lock."""
    if owner.get("machine") == _machine():
        return not asked and owner.get("started") == _started(owner.get("pid"))
    with tempfile.TemporaryFile(dir=folder) as probe:  # the clock of the file server, not ours
        now = os.fstat(probe.fileno()).st_mtime
    return now - os.fstat(file).st_mtime < SILENCE


def _owner(file: int) -> Owner:
    """What the file says; nothing when its owner was killed while writing it."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
        return owner if isinstance(owner, dict) else {}
    except ValueError:
        return {}


def _write(file: int) -> None:
    pid = os.getpid()
    owner = {"host": socket.gethostname(), "pid": pid, "time": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    text = json.dumps(owner | {"machine": _machine(), "started": _started(pid)}) + "\n"
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)
    os.fsync(file)


def _named(owner: Owner) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('time')}"


def _still_there(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _machine() -> list[str]:
    """What tells whose process numbers these are: the host, its boot, the container."""
    facts = [socket.gethostname()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))
    return facts


def _started(pid: Any) -> str | None:
    """When a process of this machine began, in the kernel's count; None when there is no such process.

    Process numbers come again; with this they do not mislead. Without /proc it is "alive".
    """
    if not isinstance(pid, int):
        return None
    if Path("/proc/self/stat").exists():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        except (OSError, IndexError):
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


def _beat(file: int, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with suppress(OSError):
            os.utime(file)
