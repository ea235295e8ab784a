"""The processes of a run, one or several: what process 0 does for all, and how they end together.

A run of several processes is the same function in each of them: every process trains on its own rows of each batch,
and only process 0 touches the run folder. What the others need of it, process 0 tells them.
"""

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np

from .agree import AgreedStop, StopAtOnce
from .interrupt import Interrupted
from .peers import ROOT, Peers

T = TypeVar("T")
LONG = 86_400_000  # ms that one process may wait for another: a dead one is noticed by `Peers`


@runtime_checkable
class Cluster(Protocol):
    """This process among those of the run. Every method but `writes` is called by all of them, in the same order."""

    index: int
    count: int

    @property
    def writes(self) -> bool:
        """Whether this is process 0, which alone writes files and prints."""
        ...

    def first(self, produce: Callable[[], T]) -> T:
        """What `produce` returns on process 0, for all; it is JSON, and the others do not call it."""
        ...

    def share(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Process 0's arrays, bit for bit; those of the others give names, shapes and dtypes."""
        ...

    def wait(self) -> None:
        """Return when all processes are here."""
        ...

    def stop(self) -> StopAtOnce | AgreedStop:
        """How a loop is stopped at the same place everywhere."""
        ...

    def together(self, remedy: str = "", before_exit: Callable[[], Any] | None = None) -> AbstractContextManager[Any]:
        """While open, the end of one process is the end of all, with one line that ends with `remedy`."""
        ...


class Alone:
    """One process; nothing to agree on."""

    index, count, writes = 0, 1, True

    def first(self, produce: Callable[[], T]) -> T:
        return produce()

    def share(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        return dict(arrays)

    def wait(self) -> None: ...

    def stop(self) -> StopAtOnce:
        return StopAtOnce()

    def together(self, remedy: str = "", before_exit: Callable[[], Any] | None = None) -> AbstractContextManager[Any]:
        return nullcontext()


class Processes:
    """One of several processes that jax.distributed has joined."""

    def __init__(self, store: Any):
        self.index, self.count = jax.process_index(), jax.process_count()
        self._store, self._numbers = store, itertools.count()
        self._peers: Peers | None = None

    @property
    def writes(self) -> bool:
        return self.index == 0

    def first(self, produce: Callable[[], T]) -> T:
        key = f"{ROOT}/told/{next(self._numbers)}"
        if self.writes:
            self._store.key_value_set(key, json.dumps(produce()))
        return json.loads(in_thread(self._store.blocking_key_value_get, key, LONG))

    def share(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        from jax.experimental.multihost_utils import broadcast_one_to_all

        arrays = {name: np.asarray(value) for name, value in arrays.items()}
        packed = np.frombuffer(b"".join(value.tobytes() for value in arrays.values()), np.uint8)
        self.wait()  # a collective operation has a time limit of its own
        received = np.asarray(broadcast_one_to_all(packed))
        ends = np.cumsum([value.nbytes for value in arrays.values()])
        parts = zip(arrays.items(), np.split(received, ends), strict=False)  # the last part is empty
        return {name: part.copy().view(like.dtype).reshape(like.shape) for (name, like), part in parts}

    def wait(self) -> None:
        in_thread(self._store.wait_at_barrier, f"{ROOT}/wait/{next(self._numbers)}", LONG)

    def stop(self) -> AgreedStop:
        assert self._peers is not None, "inside `together`"
        return AgreedStop(self._peers, next(self._numbers))

    @contextmanager
    def together(self, remedy: str = "", before_exit: Callable[[], Any] | None = None) -> Iterator[None]:
        outermost = self._peers is None
        if self._peers is None:
            self._peers = Peers(self.index, self.count, self._store)
            self._peers.start()
        peers, before = self._peers, (self._peers.remedy, self._peers.before_exit)
        peers.remedy, peers.before_exit = remedy or before[0], before_exit or before[1]
        try:
            yield
            if outermost:
                self.wait()
        except Interrupted:
            raise  # at the same step everywhere
        except BaseException as error:
            told = peers.report(error)
            raise told from (error.__cause__ if told is error else None)
        finally:
            peers.remedy, peers.before_exit = before
            if outermost:
                peers.close()
                self._peers = None


def in_thread(call: Callable[..., T], *arguments: Any, limit: float | None = None) -> T:
    """`call(*arguments)`, which may block long inside C++, so that Ctrl-C works meanwhile.

    Raises TimeoutError after `limit` seconds.
    """
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call(*arguments))
        except BaseException as error:  # raised where the answer is waited for
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True, name="cssm-wait").start()
    return answer.result(limit)


_processes: Processes | None = None


def cluster() -> Cluster:
    """The processes that jax.distributed has joined, or this one alone."""
    global _processes
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return Alone()
    if _processes is None:
        from jax._src.distributed import global_state  # JAX has no public face of the key-value store

        _processes = Processes(global_state.client)
    return _processes
