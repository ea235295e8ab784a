"""How processes hear of each other: signs of life, and news, in the key-value store of jax.distributed's coordinator.

Process 0 hosts the coordinator. A thread in every process looks at the store twice a second, so the training thread
may wait inside a collective operation, or for the disk, and the process still answers.
"""

import atexit
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from cssm.core.errors import CssmError

POLL = 0.5  # seconds between two looks
SILENCE = 60.0  # seconds without a sign of life after which process 0 gives a process up
ROLL_CALL = 4.0  # the same after a broken connection
FAREWELL = 5.0  # seconds that process 0, on failing, waits for the others to hear of it
News = dict[str, str]
ROOT = "cssm"


class Peers:
    """The watching thread of one process, and what it knows.

    When another process fails or dies this one ends as well, with one line on stderr and exit code 1: the training
    thread may be inside a collective operation that cannot be left, so the thread ends the process itself.
    """

    def __init__(self, index: int, count: int, store: Any):
        self.index, self.count, self.store = index, count, store
        self.remedy = "start it again"
        self.before_exit: Callable[[], Any] = lambda: None
        self.listeners: list[Callable[[News], None]] = []
        self._lifes: dict[int, tuple[str, float]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cssm-peers", daemon=True)

    def start(self) -> None:
        self.look()
        self._thread.start()

    def close(self) -> None:
        """Watch no more; the others take the silence that follows for granted."""
        if not self._closed.is_set():
            self._closed.set()
            self._thread.join(5)
            self._put(f"life/{self.index}", "away")

    def tell(self, name: str, text: str) -> bool:
        """Put news before every process; False when the same news was told already."""
        try:
            self.store.key_value_set(f"{ROOT}/news/{name}", text)
            return True
        except jax.errors.JaxRuntimeError as error:
            if "ALREADY_EXISTS" in str(error):
                return False
            raise

    def report(self, error: BaseException) -> BaseException:
        """Tell the others that this process ends with `error`; the error to raise, which may name another culprit."""
        if self._closed.is_set():
            return error
        self._closed.set()
        broken = isinstance(error, jax.errors.JaxRuntimeError)  # perhaps only because another process is gone
        mine = f"process {self.index} failed: {_line(error)}"
        try:
            dead = self._roll_call() if broken else []
            self.tell("failed", f"process {dead[0]} died ({_short(error)})" if dead else mine)
            told = self.look()["failed"]
        except jax.errors.JaxRuntimeError as lost:
            told = _coordinator_lost(lost)
        self._say_goodbye()
        atexit.register(leave, _code(error))
        return CssmError(f"{told}: {self.remedy}") if broken and told != mine else error

    def look(self) -> News:
        """Give a sign of life, hear the news and pass it on."""
        self._put(f"life/{self.index}", repr(time.time()))
        news = {key.removeprefix(f"{ROOT}/news/"): text for key, text in self.store.key_value_dir_get(f"{ROOT}/news")}
        for listener in list(self.listeners):
            listener(news)
        return news

    def _watch(self) -> None:
        while not self._closed.wait(POLL):
            try:
                news = self.look()
                if self.index == 0 and "failed" not in news and (silent := self._silent(SILENCE)):
                    self.tell("failed", f"process {silent[0]} gave no sign of life for {SILENCE:.0f} s")
            except jax.errors.JaxRuntimeError as error:
                news = {"failed": _coordinator_lost(error)}
            if "failed" in news and not self._closed.is_set():
                self._end(news["failed"])

    def _silent(self, limit: float) -> list[int]:
        """The processes whose last sign of life has been there for `limit` seconds."""
        now = time.monotonic()
        for key, sign in self.store.key_value_dir_get(f"{ROOT}/life"):
            process = int(key.rpartition("/")[2])
            if self._lifes.get(process, ("", 0.0))[0] != sign:
                self._lifes[process] = sign, now
        lifes = self._lifes.items()
        return [p for p, (sign, since) in lifes if p != self.index and sign != "away" and now - since > limit]

    def _roll_call(self) -> list[int]:
        """The processes that are dead, as far as some seconds can tell; none when one said what happened."""
        until = time.monotonic() + ROLL_CALL + 2 * POLL
        while time.monotonic() < until and "failed" not in self.look():
            if dead := self._silent(ROLL_CALL):
                return dead
            time.sleep(POLL)
        return []

    def _put(self, name: str, text: str) -> None:
        self.store.key_value_set(f"{ROOT}/{name}", text, allow_overwrite=True)

    def _end(self, text: str) -> None:
        self.before_exit()
        sys.stderr.write(f"cssm: error: {text}: {self.remedy}\n")
        self._say_goodbye()
        leave(1)

    def _say_goodbye(self) -> None:
        """The coordinator leaves last: the others would take its end for another failure."""
        try:
            self._put(f"gone/{self.index}", "")
            until = time.monotonic() + FAREWELL
            while self.index == 0 and time.monotonic() < until:
                if len(self.store.key_value_dir_get(f"{ROOT}/gone")) == self.count:
                    break
                time.sleep(0.1)
        except jax.errors.JaxRuntimeError:
            pass


def _coordinator_lost(error: BaseException) -> str:
    return f"process 0, the coordinator, died ({_short(error)})"


def _line(error: BaseException) -> str:
    kind = "" if isinstance(error, CssmError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"


def _short(error: BaseException) -> str:
    return textwrap.shorten(_line(error), 160, placeholder=" ...")


def _code(error: BaseException) -> int:
    code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", 1)
    return code if isinstance(code, int) else 1


def leave(code: int) -> None:
    """End this process without JAX's end, which would wait for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
