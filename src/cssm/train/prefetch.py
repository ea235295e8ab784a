"""Batches prepared ahead in one background thread, each with the iterator state that follows it."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cssm.core.errors import DataError, UsageError

Place = Callable[[Any], Any]


class Prefetch:
    """Iterate a finite pass of batches, `depth` of them placed on the devices ahead of use.

    Use it as a context manager: leaving it stops the thread. An exception of the source is raised at the batch where
    it happened.

    >>> with Prefetch(iter([1, 2, 3]), place=lambda batch: batch * 10) as batches:
    ...     list(batches)
    [10, 20, 30]
    """

    def __init__(self, batches: Iterator[Any], place: Place, depth: int = 2):
        self._batches, self._place = batches, place
        self._queue: queue.Queue = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="cssm-prefetch", daemon=True)

    def __enter__(self) -> "Prefetch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():  # the thread may wait for room
            self._drop()
            self._thread.join(timeout=0.05)
        self._drop()

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> Any:
        kind, value = self._queue.get()
        if kind == "batch":
            return value
        self._queue.put((kind, value))  # asked again, it answers the same
        raise StopIteration if kind == "end" else value

    def _fill(self) -> None:
        try:
            for batch in self._batches:
                if not self._offer(("batch", self._place(batch))):
                    return
            self._offer(("end", None))
        except BaseException as error:  # handed to the consumer, whatever it is
            self._offer(("error", error))

    def _offer(self, item: tuple[str, Any]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _drop(self) -> None:
        while not self._queue.empty():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return


class Stream:
    """An endless, resumable stream of (batch, state after it) from a source that may end after each epoch.

    `data` is an iterator, or an iterable whose iterators have `get_state()` and `set_state(state)`, the state being
    JSON; it is iterated anew whenever a pass ends. Raises UsageError for an iterator without them, DataError for one
    that gives nothing.
    """

    def __init__(self, data: Iterable[Any], state: Any = None):
        self._data = data
        self._iterator: Any = iter(data)
        for method in ("get_state", "set_state"):
            if not hasattr(self._iterator, method):
                kind = type(self._iterator).__name__
                raise UsageError(f"the training data's iterator ({kind}) has no {method}: use cssm.data.loader")
        if state is not None:
            self._iterator.set_state(state)

    def state(self) -> Any:
        return self._iterator.get_state()

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> tuple[Any, Any]:
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._iterator = iter(self._data)
            batch = self._first()
        return batch, self._iterator.get_state()

    def _first(self) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            raise DataError("the training data ended and gives no more: use a loader with repeat=True") from None
