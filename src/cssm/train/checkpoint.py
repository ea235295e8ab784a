"""Checkpoints that survive kill -9 and are known to be whole: Orbax arrays, JSON facts, a checksum manifest.

A step is written to a hidden folder in a background thread and renamed when it is complete, so a folder called
`step_<n>` was whole once; its checksums are verified before anything is read from it.
"""

import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cssm.core.errors import CheckpointError, DataError
from cssm.core.files import read_small

from .cluster import Alone, cluster
from .manifest import damage, write_json, write_manifest
from .state import Blueprint, split, to_host

log = logging.getLogger("cssm.train")
HostArrays = dict[str, np.ndarray]


class CheckpointStore:
    """The checkpoints of one run: the newest `keep`, and the best.

    >>> import tempfile, numpy as np
    >>> with CheckpointStore(tempfile.mkdtemp(), keep=2) as store:
    ...     for step in (1, 2, 3):
    ...         store.save(step, {"params/w": np.full(2, step)}, {"step": step}, best=step == 1)
    ...     store.wait()
    ...     store.steps(), store.best_step(), store.restore("best")[0]["params/w"].tolist()
    ([1, 2, 3], 1, [1, 1])
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3):
        self.folder, self.keep = Path(folder).absolute(), keep
        self._writer = ThreadPoolExecutor(1, "cssm-checkpoint")
        self._pending: Future | None = None

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what is being written; nothing can be saved afterwards."""
        self._writer.shutdown(wait=True)

    def steps(self) -> list[int]:
        """The steps on disk, oldest first."""
        if not self.folder.is_dir():
            return []
        matches = (re.fullmatch(r"step_(\d+)", path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def best_step(self) -> int | None:
        """The step marked best; None when none was. Raises CheckpointError when the mark cannot be read."""
        path = self.folder / "best.json"
        if not path.exists():
            return None
        try:
            return int(json.loads(read_small(path))["step"])
        except (DataError, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise CheckpointError(f"{path} is damaged: choose a step by number, of {self.steps()}") from None

    def clean(self) -> None:
        """Remove what a killed run left half written. Only for the run that owns the folder."""
        if self.folder.is_dir():
            for path in self.folder.glob(".tmp-*"):
                shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, arrays: Mapping[str, Any], facts: Mapping[str, Any], *, best: bool = False) -> None:
        """Copy the arrays to the host now, write them in the background. `facts` is JSON.

        Waits for the save before it; raises CheckpointError when that one failed.
        """
        self.wait()
        copied: dict[str, Any] = json.loads(json.dumps(facts))  # an error comes here rather than in the thread
        self._pending = self._writer.submit(self._write, step, to_host(dict(arrays)), copied, best)

    def wait(self) -> None:
        """Return when nothing is being written. Raises CheckpointError when the last save failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raises CheckpointError when the last save has failed; waits for nothing."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def restore(self, which: int | str) -> tuple[HostArrays, dict[str, Any]]:
        """(arrays, facts) of a step, of "best", or of "last" (the newest one, no other).

        Raises CheckpointError when there is none or it is damaged.
        """
        step = self._resolve(which)
        folder = self._path(step)
        if reason := damage(folder):
            raise CheckpointError(f"checkpoint {folder} is damaged ({reason}): choose another, of {self.steps()}")
        return _read(folder)

    def restore_newest(self) -> tuple[HostArrays, dict[str, Any]]:
        """(arrays, facts) of the newest step that is whole, with one warning line for each newer one.

        Raises CheckpointError when there is none.
        """
        for step in reversed(self.steps()):
            if reason := damage(self._path(step)):
                log.warning("checkpoint %s is damaged (%s): using the one before it", self._path(step), reason)
                continue
            return _read(self._path(step))
        found = f"all of {self.steps()} are damaged" if self.steps() else "there is none"
        raise CheckpointError(f"no usable checkpoint in {self.folder}: {found}; start the run anew in another folder")

    def set_aside_after(self, step: int) -> None:
        """Rename every later step to `damaged_<step>`: the run goes on from `step` and will write them again."""
        for later in self.steps():
            if later > step:
                aside = self.folder / f"damaged_{later}"
                shutil.rmtree(aside, ignore_errors=True)
                self._path(later).rename(aside)

    def mark_best(self, step: int | None) -> None:
        """Point "best" at a step on disk; None removes the mark."""
        if step is None:
            (self.folder / "best.json").unlink(missing_ok=True)
        else:
            write_json(self.folder / "best.json", {"step": step})

    def _resolve(self, which: int | str) -> int:
        steps = self.steps()
        if which not in ("best", "last") and which not in steps:
            raise CheckpointError(f"no checkpoint {which!r} in {self.folder}: choose best, last or one of {steps}")
        step = self.best_step() if which == "best" else max(steps, default=None) if which == "last" else which
        if step is None or step not in steps:
            remedy = "a run has one after its first evaluation; take the last one (--checkpoint last), or one of them"
            remedy = (
                f": {remedy}" if which == "best" and steps else "" if steps else ": train it further, with --resume"
            )
            raise CheckpointError(f"no {which} checkpoint in {self.folder}, which holds the steps {steps}{remedy}")
        return step

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step}"

    def _write(self, step: int, arrays: HostArrays, facts: dict[str, Any], best: bool) -> None:
        """A save that fails leaves the steps that were there, and gives back the room that it took."""
        new = self.folder / f".tmp-{step}"
        try:
            self._write_to(new, step, arrays, facts, best)
        except (OSError, ValueError, RuntimeError) as error:  # TensorStore has its own for a full disk
            shutil.rmtree(new, ignore_errors=True)
            held = f"whole are {self.steps()}" if self.steps() else "there is none"
            raise CheckpointError(
                f"cannot write the checkpoint of step {step} to {self.folder} ({_reason(error)}): make room, or see to "
                f"the folder, and go on from the last one ({held})"
            ) from error

    def _write_to(self, new: Path, step: int, arrays: HostArrays, facts: dict[str, Any], best: bool) -> None:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        _write_arrays(new, arrays)
        write_json(new / "facts.json", facts)
        write_manifest(new)
        self._remove(step)
        new.rename(self._path(step))
        if best:
            self.mark_best(step)
        self._prune()

    def _prune(self) -> None:
        for step in self.steps()[: -self.keep]:
            if step != self.best_step():
                self._remove(step)

    def _remove(self, step: int) -> None:
        """Out of sight first, so that a kill half-way leaves nothing that looks damaged."""
        if self._path(step).exists():
            gone = self.folder / f".tmp-removed-{step}"
            self._path(step).rename(gone)
            shutil.rmtree(gone)


def check_leaves(arrays: Mapping[str, Any], expected: Mapping[str, Any], source: str) -> None:
    """CheckpointError naming the first leaf whose presence, shape or dtype differs."""
    remedy = "build the model and optimiser with the configuration the run was saved with"
    for name, want in expected.items():
        if name not in arrays:
            raise CheckpointError(f"{source} has no {name}, which the model needs: {remedy}")
        have = arrays[name]
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            has, needs = f"{have.dtype}{list(have.shape)}", f"{want.dtype}{list(want.shape)}"
            raise CheckpointError(f"{source} has {name} as {has}, the model needs {needs}: {remedy}")
    for name in arrays:
        if name not in expected:
            raise CheckpointError(f"{source} has {name}, which the model lacks: {remedy}")


def load_model(
    run_dir: str | os.PathLike, model: nnx.Module, which: int | str = "best", *, together: bool = False
) -> dict[str, Any]:
    """Put a run's parameters into `model`, in place: the averaged ones where the run kept an average.

    `which` is "best", "last" or a step. With `together` all processes of a distributed run call this, and process 0
    reads the folder for all. Returns the facts saved with it (step, best score, ...). Raises CheckpointError when it
    is missing, damaged, or of another model, naming the first leaf that differs.
    """
    processes = cluster() if together else Alone()
    params, rest = split(model)

    def read() -> dict[str, Any]:
        with CheckpointStore(Path(run_dir) / "checkpoints") as store:
            arrays, facts = store.restore(which)
        kind = "ema" if any(name.startswith("ema/") for name in arrays) else "params"
        for mine, saved in ((params, _under(arrays, kind)), (rest, _under(arrays, "rest"))):
            check_leaves(saved, mine, f"checkpoint {which} of {run_dir}")
            mine.update(saved)
        return facts

    facts = processes.first(read)
    Blueprint.of(model).write(model, processes.share(params), processes.share(rest))
    return facts


def _reason(error: Exception) -> str:
    """The system's own words for a full disk and the like, where an error of TensorStore holds a page of them."""
    number = getattr(error, "errno", None)
    found = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(found[1]) if number is None and found else number
    return os.strerror(number) if number else " ".join(str(error).split())


def _under(arrays: HostArrays, kind: str) -> HostArrays:
    return {name.removeprefix(f"{kind}/"): value for name, value in arrays.items() if name.startswith(f"{kind}/")}


def _read(folder: Path) -> tuple[HostArrays, dict[str, Any]]:
    return _read_arrays(folder), json.loads((folder / "facts.json").read_bytes())


def _write_arrays(folder: Path, arrays: HostArrays) -> None:
    """Orbax refuses arrays of size zero: those are listed beside it."""
    empty = {name: [value.shape, str(value.dtype)] for name, value in arrays.items() if value.size == 0}
    write_json(folder / "empty.json", empty)
    with _orbax() as checkpointer:
        checkpointer.save(folder / "arrays", {name: v for name, v in arrays.items() if name not in empty})


def _read_arrays(folder: Path) -> HostArrays:
    with _orbax() as checkpointer:
        arrays = {name: np.asarray(value) for name, value in checkpointer.restore(folder / "arrays").items()}
    empty = json.loads((folder / "empty.json").read_bytes())
    return arrays | {name: np.zeros(shape, dtype) for name, (shape, dtype) in empty.items()}


def _orbax() -> Any:
    """Of this process alone, however many there are: the arrays are whole in each."""
    import orbax.checkpoint as ocp  # seconds to import, and only runs that save need it

    _hush_threads_of_orbax()
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)


@cache
def _hush_threads_of_orbax() -> None:
    """They raise their errors where they are waited for; Python would print a page for each of them as well."""
    before = threading.excepthook

    def hook(told: threading.ExceptHookArgs) -> None:
        if not type(told.thread).__module__.startswith("orbax."):
            before(told)

    threading.excepthook = hook
