"""The checkpoints of a run of one or more processes: process 0 alone reads and writes them, and tells the others."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cssm.core.errors import UsageError

from .checkpoint import CheckpointStore, check_leaves
from .cluster import Cluster
from .lock import holding
from .state import Arrays, TrainState, from_arrays, to_arrays

Facts = dict[str, Any]


class RunStore:
    """All processes call the same methods in the same order; only process 0 needs to see the folder."""

    def __init__(self, run_dir: Path, keep: int, cluster: Cluster):
        self.run_dir, self.cluster = run_dir, cluster
        self.store = CheckpointStore(run_dir / "checkpoints", keep)
        self._lock = ExitStack()

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self.store.close()

    def open(self, resume: bool) -> None:
        """Make the folder ready, for this process alone. Raises UsageError where another run, or its process, is."""
        if not self.cluster.writes:
            return
        self._lock.enter_context(holding(self.run_dir))
        newest = max(self.store.steps(), default=0)
        if newest and not resume:  # a run that failed before its first save has nothing to lose
            raise UsageError(f"{self.run_dir} holds a run at step {newest}: resume it, or choose another folder")
        self.store.clean()

    def begin(self, state: TrainState, facts: Facts) -> TrainState:
        """Save step 0, and give process 0's state to all."""
        self.save(state, facts)
        self.settle()
        return self._spread(to_arrays(state), state)

    def save(self, state: TrainState, facts: Facts, best: bool = False) -> None:
        """Save under `facts["step"]`, written in the background."""
        if self.cluster.writes:
            self.store.save(facts["step"], to_arrays(state), facts, best=best)

    def holds(self, step: int) -> bool:
        """Whether the newest checkpoint, on process 0, is of that step."""
        return not self.cluster.writes or self.store.steps()[-1] == step

    def settle(self) -> None:
        """Return when nothing is being written."""
        self.store.wait()

    def restore(self, like: TrainState) -> tuple[TrainState, Facts]:
        """The newest whole checkpoint, with the structure of `like`; it becomes the run's last."""
        arrays = to_arrays(like)

        def newest() -> Facts:
            self.settle()
            saved, facts = self.store.restore_newest()
            check_leaves(saved, arrays, f"checkpoint step {facts['step']} of {self.run_dir}")
            arrays.update(saved)
            self.store.set_aside_after(facts["step"])
            self.store.mark_best(facts["best"] and facts["best"][1])
            return facts

        facts = self.cluster.first(newest)
        return self._spread(arrays, like), facts

    def _spread(self, arrays: Arrays, like: TrainState) -> TrainState:
        return from_arrays(self.cluster.share(arrays), like)
