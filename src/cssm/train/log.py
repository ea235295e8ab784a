"""Where figures go: metrics.jsonl always, TensorBoard and Weights & Biases beside it."""

import importlib
import json
import math
import secrets
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from cssm.core.errors import CheckpointError, UsageError
from cssm.core.files import replacing

Record = dict[str, Any]  # {"kind": "train" | "eval", "step": 10, "loss": .5, ...}


class Sink(Protocol):
    """Something that takes records."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One record a line, flushed, so that a killed run loses none."""

    def __init__(self, run_dir: Path, step: int):
        self.path = run_dir / "metrics.jsonl"
        self._keep_until(step)
        self._file = self.path.open("a")

    def write(self, record: Record) -> None:
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _keep_until(self, step: int) -> None:
        """Drop what a resumed run will write again, so that the file holds one curve."""
        if self.path.exists():
            lines = [_line(record) for record in read_metrics(self.path) if record["step"] <= step]
            with replacing(self.path) as new:
                new.write_text("".join(lines))


class TensorBoard:
    """Event files in run_dir/tensorboard, tags such as `train/loss`.

    Written in this thread: one of its own, which tensorboardX has, dies of a full disk and leaves the run waiting.
    """

    FLUSH = 10.0  # seconds

    def __init__(self, run_dir: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter  # seconds to import, and only runs that ask need it
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        self._event, self._flushed = Event, time.monotonic()
        (run_dir / "tensorboard").mkdir(exist_ok=True)
        self._writer = EventsWriter(str(run_dir / "tensorboard" / "events"))
        if step:  # what an earlier life of the run wrote after it is hidden
            self._writer.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, record: Record) -> None:
        from tensorboardX.summary import scalar

        for name, value in _figures(record).items():
            event = self._event(wall_time=time.time(), step=record["step"], summary=scalar(name, value))
            self._writer.write_event(event)
        if time.monotonic() - self._flushed > self.FLUSH:
            self._flushed = time.monotonic()
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A Weights & Biases run named after the folder; a resumed run continues it, and plots against `step`."""

    def __init__(self, run_dir: Path, step: int):
        import wandb  # pyright: ignore[reportMissingImports]

        path = run_dir / "wandb_id.txt"
        if not path.exists():
            path.write_text(secrets.token_hex(4))
        name = {"id": path.read_text(), "name": run_dir.name}
        self._run = wandb.init(project="cssm", dir=str(run_dir), resume="allow", **name)
        self._run.define_metric("*", step_metric="step")  # W&B's own count cannot go back to a checkpoint

    def write(self, record: Record) -> None:
        self._run.log(_figures(record) | {"step": record["step"]})

    def close(self) -> None:
        self._run.finish()


SINKS: dict[str, type] = {"jsonl": JsonLines, "tensorboard": TensorBoard, "wandb": WandB}


def check_loggers(names: tuple[str, ...]) -> None:
    """A UsageError where a logger's package is not there: before anything is written.

    >>> check_loggers(("jsonl",))
    """
    if "wandb" in names:
        try:
            importlib.import_module("wandb")
        except ImportError:
            raise UsageError(
                "logger wandb needs the wandb package: pip install 'cssm[wandb]', or --logger jsonl"
            ) from None


class RunLog:
    """All sinks of a run as one context manager; records after `step` of an earlier life of the run are dropped."""

    def __init__(self, run_dir: Path, names: tuple[str, ...], step: int = 0):
        self._run_dir, self._names, self._step = run_dir, names, step
        self._sinks: list[Sink] = []

    def __enter__(self) -> "RunLog":
        self._open(self._step)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._close()
        except OSError as error:
            if kind is None:  # else what ended the run is told, not that its log cannot be closed either
                raise CheckpointError(f"cannot write the log in {self._run_dir} ({error}): make room") from error

    def write(self, record: Record) -> None:
        for sink in self._sinks:
            sink.write(record)

    def rewind(self, step: int) -> None:
        """Drop the records after `step`: the run goes on from there."""
        self._close()
        self._open(step)

    def _open(self, step: int) -> None:
        try:
            for name in self._names:
                self._sinks.append(SINKS[name](self._run_dir, step))
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        with ExitStack() as stack:  # all of them, whatever one says
            while self._sinks:
                stack.callback(self._sinks.pop().close)


def read_metrics(path: str | Path) -> list[Record]:
    """The records of a metrics.jsonl; a last line that a kill cut short is left out.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> path.write_text('{"kind": "eval", "step": 1, "accuracy": 0.5}' + chr(10) + '{"kind": "ev')
    57
    >>> read_metrics(path)
    [{'kind': 'eval', 'step': 1, 'accuracy': 0.5}]
    """
    records = []
    for line in Path(path).read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [record for record in records if isinstance(record, dict) and "step" in record]


def _line(record: Record) -> str:
    """Strict JSON has no NaN: the loss of a skipped step becomes null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _figures(record: Record) -> dict[str, float]:
    figures = {key: value for key, value in record.items() if key not in ("kind", "step") and value is not None}
    return {f"{record['kind']}/{key}": float(value) for key, value in figures.items()}
