"""What a run tells its callbacks while it goes on, and its caller at the end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flax import nnx

from .log import Record

Kind = Literal["start", "log", "eval", "checkpoint", "end"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """What a callback is given. `record` is the line of metrics.jsonl that goes with it, empty where none does.

    `model()` builds a module on a copy of the present evaluation parameters (averaged when `ema` is on); at "log",
    which looks back at a finished step, these are of up to two steps later.
    """

    kind: Kind
    step: int
    record: Record
    run_dir: Path
    model: Callable[[], nnx.Module]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """`history` holds every evaluation record, oldest first; `seconds` counts the earlier lives of a resumed run too.

    `best_score` is the task's monitored figure on the validation data; None without validation data. `accumulate` is
    what the run ended with, more than asked for when memory ran out.
    """

    best_score: float | None
    best_step: int | None
    final_step: int
    seconds: float
    history: tuple[Record, ...]
    skipped_steps: int
    accumulate: int
    run_dir: Path


Callback = Callable[[Event], None]
