"""The figures of finished steps, fetched a few steps behind the newest one so that nothing waits for the device."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax

from cssm.core.errors import NonFiniteError
from cssm.tasks.task import Task

from .log import Record
from .memory import memory_mib

log = logging.getLogger("cssm.train")
LAG = 2  # steps dispatched before the metrics of the first are fetched
BAD_STEPS = 5  # non-finite steps in a row that end the run


class Watch:
    """`add` what a train step returns; `look_back` hands the due training records to `write`."""

    flops: float | None = None
    """Floating-point operations of a step, once they are known."""
    peak: float | None = None
    """Those that the devices can do in a second."""

    def __init__(self, task: Task, write: Callable[[Record], None], *, every: int, last: int, rows: int):
        self.task, self.write, self.every, self.last, self.rows = task, write, every, last, rows
        self._pending: deque[tuple[int, float, dict[str, Any]]] = deque()  # step, when it was dispatched, metrics
        self._clock: tuple[int, float] | None = None  # the step and time that the rate is counted from

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        self._pending.append((step, time.perf_counter(), metrics))
        self.look_back(LAG)

    def look_back(self, lag: int = 0) -> None:
        """Take in all steps but the newest `lag`. Raises NonFiniteError at the fifth bad one in a row."""
        while len(self._pending) > lag:
            step, when, metrics = self._pending.popleft()
            if in_row := int(metrics["bad_in_row"]):
                report_bad_step(step, in_row, jax.device_get(metrics))
            if step % self.every == 0 or step == self.last:
                self.write(self._record(step, when, jax.device_get(metrics)))
            if self._clock is None:  # after the first step, which compiles
                self._clock = step, when

    def pause(self) -> None:
        """Leave the time since the last record out of the rate: an evaluation or a save ran."""
        self._clock = None

    def _record(self, step: int, when: float, metrics: dict[str, Any]) -> Record:
        figures = self.task.summarise(metrics["sums"]) if metrics["weight"] > 0 else {}
        scalars = {name: metrics[name].item() for name in ("loss", "lr", "grad_norm", "skipped")}
        rate = self._rate(step, when)
        measured = {"samples_per_second": rate, **self._flops(rate), "memory_mib": round(memory_mib(), 1)}
        return {"kind": "train", "step": step} | figures | scalars | measured

    def _flops(self, rate: float | None) -> dict[str, float]:
        """Tera-operations per second, and the share of what the devices can do, as far as they are known."""
        if rate is None or not self.flops:
            return {}
        done = rate / self.rows * self.flops
        share = {} if self.peak is None else {"mfu": float(f"{done / self.peak:.4g}")}
        return {"tflops": float(f"{done / 1e12:.4g}"), **share}

    def _rate(self, step: int, when: float) -> float | None:
        """Samples/s since the last record; None where there is nothing to count from."""
        before, self._clock = self._clock, (step, when)
        if before is None:
            return None
        return round((step - before[0]) * self.rows / max(when - before[1], 1e-9), 2)


def report_bad_step(step: int, in_row: int, metrics: dict[str, Any]) -> None:
    """One warning line for a skipped step; NonFiniteError at the fifth in a row."""
    inputs = [key for key, bad in metrics["not_finite"].items() if bad]
    if inputs:
        cause, remedy = f"the {inputs[0]} contains NaN or infinity", "clean the data"
    else:
        cause = f"loss {metrics['loss']}, gradient norm {metrics['grad_norm']}"
        remedy = "lower lr, clip harder, use float32, and check that the targets are in range"
    if in_row < BAD_STEPS:
        log.warning("step %d skipped, %d in a row: %s", step, in_row, cause)
    else:
        raise NonFiniteError(f"step {step} is non-finite, the {in_row}th in a row, none applied: {cause}; {remedy}")
