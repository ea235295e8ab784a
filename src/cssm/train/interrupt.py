"""Ctrl-C and SIGTERM as a flag that the loop looks at between steps."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(SystemExit):
    """A run stopped by a signal after saving its state; uncaught, the process exits with code 130."""

    def __init__(self, step: int):
        super().__init__(130)
        self.step = step


class Interrupts:
    """While open, SIGINT and SIGTERM set `requested`; a second signal acts at once, as it would have before.

    Outside the main thread Python allows no handlers, and nothing is caught.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
