"""One place at which all processes stop, agreed on in the background: a training step pays nothing for it."""

import threading
from typing import Any

from .peers import ROOT, News, Peers

ANSWER = 120.0  # seconds for the other processes to say where they are


class StopAtOnce:
    """One process alone: a stop that is asked for is now."""

    def here(self, asked: bool) -> bool:
        return asked

    def close(self) -> None: ...


class AgreedStop:
    """Processes dispatch ahead, so that a signal finds them at different places, and one that stopped there would leave
    the others inside a collective operation. Every process counts the places that its loop has passed: the ends of
    steps and of the batches of an evaluation, the same for all. When any process asks for a stop,

    1. the watching thread of each process writes down its count, and from then on the loop waits at its next place
       until the one to stop at is known;
    2. that is one more than the largest count: no process is past it, and every one can get there.
    """

    def __init__(self, peers: Peers, run: int):
        self._peers, self._run, self._passed = peers, run, 0
        self._lock = threading.Lock()
        self._asked = self._answered = False
        self._target: int | None = None
        peers.listeners.append(self._heard)

    def here(self, asked: bool) -> bool:
        """Whether to stop at this place, the next one. `asked`: this process has been told to."""
        if asked and not self._asked:
            self._asked = True
            self._peers.tell(f"stop-{self._run}", "")
        with self._lock:
            self._passed += 1
            if not self._answered:
                return False
        self._target = self._target or 1 + max(self._answers())
        return self._passed == self._target

    def close(self) -> None:
        self._peers.listeners.remove(self._heard)

    def _heard(self, news: News) -> None:
        if f"stop-{self._run}" in news:
            with self._lock:
                if not self._answered:
                    self._answered = True
                    self._peers.store.key_value_set(self._key(self._peers.index), str(self._passed))

    def _answers(self) -> list[int]:
        get: Any = self._peers.store.blocking_key_value_get
        return [int(get(self._key(process), int(1000 * ANSWER))) for process in range(self._peers.count)]

    def _key(self, process: int) -> str:
        return f"{ROOT}/stop-{self._run}/{process}"
