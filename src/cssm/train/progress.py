"""The progress bar on stderr: steps, samples/s, time left, loss, memory. Nothing when stderr is no terminal."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """Use as a context manager; `show` is cheap enough for every logged step."""

    def __init__(self, total: int, start: int = 0, *, enabled: bool = True):
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=(console := Console(stderr=True)),
            disable=not (enabled and console.is_terminal),
        )
        self._task = self._progress.add_task("train", total=total, completed=start, figures="")

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, step: int, loss: float, rate: float | None, memory: float) -> None:
        """`rate` in samples/s, None while unknown; `memory` in MiB."""
        speed = "" if rate is None else f"{rate:.0f} samples/s  "
        figures = f"loss {loss:.4f}  {speed}{memory:.0f} MiB"
        self._progress.update(self._task, completed=step, figures=figures)


def say(text: str) -> None:
    """A line for the person at the terminal; stdout is left to the caller."""
    print(text, file=sys.stderr, flush=True)
