"""Progress on stderr: steps, samples/s, time left, loss, memory. A bar, or a line every so often without a terminal."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """Use as a context manager; `show` is cheap enough for every logged step."""

    FIRST, EVERY = 5.0, 30.0  # seconds to the first line without a terminal, and between lines

    def __init__(self, total: int, start: int = 0, *, enabled: bool = True):
        self._total, self._began = total, (time.monotonic(), start)
        self._next = time.monotonic() + self.FIRST
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=(console := Console(stderr=True)),
            disable=not (enabled and console.is_terminal),
        )
        self._lines = enabled and not console.is_terminal
        self._task = self._progress.add_task("train", total=total, completed=start, figures="")

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: int, loss: float, rate: float | None, memory: float, **done: float | None) -> None:
        """`rate` in samples/s, None while unknown; `memory` in MiB; `tflops` a second and their share `mfu` of the
        devices', as far as they are known."""
        speed = "" if rate is None else f"{rate:.0f} samples/s  "
        tflops, mfu = done.get("tflops"), done.get("mfu")
        speed += "" if tflops is None else f"{tflops:.3g} TFLOP/s  " if mfu is None else f"MFU {100 * mfu:.0f}%  "
        figures = f"loss {loss:.4f}  {speed}{memory:.0f} MiB"
        self._progress.update(self._task, completed=step, figures=figures)
        now = time.monotonic()
        if self._lines and (now >= self._next or step == self._total):
            self._next = now + self.EVERY
            began, start = self._began
            left = (self._total - step) * (now - began) / max(step - start, 1)
            say(f"step {step:,} of {self._total:,}  {figures}  {_duration(left)} left")


def _duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds.

    >>> _duration(5025.0), _duration(65.0), _duration(0.2)
    ('1 h 23 min', '1 min 05 s', '0 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def say(text: str) -> None:
    """A line for the person at the terminal; stdout is left to the caller."""
    print(text, file=sys.stderr, flush=True)
