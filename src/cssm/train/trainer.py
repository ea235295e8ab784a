"""The training loop: dispatch ahead, look back a few steps, save what an exact continuation needs."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import CheckpointError, CssmError, UsageError
from cssm.tasks.task import Task

from . import memory
from .cluster import cluster
from .config import TrainConfig
from .distributed import global_mesh, own_copy, pad_rows, place, put
from .environment import write_environment
from .evaluate import Passes, run_evaluation
from .flops import devices_peak, step_flops
from .interrupt import Interrupted, Interrupts
from .log import Record, RunLog, check_loggers, read_metrics
from .memory import StepTooLarge, out_of_memory, step_bytes
from .optim import optimizer
from .prefetch import Prefetch, Stream
from .progress import ProgressBar, say
from .report import Callback, Event, Kind, TrainResult
from .run_store import Facts, RunStore
from .state import Arrays, Blueprint, TrainState, init_state
from .step import Augment, StepBuilder
from .watch import Watch

log = logging.getLogger("cssm.train")
SMALLEST_BATCH = 4  # rows of a micro-batch, when memory runs out


class Trainer:
    """One run; `train` is its public face."""

    state: TrainState
    stopped: Callable[[], bool]  # whether to stop here, at the end of a step or of a batch of an evaluation

    def __init__(
        self,
        model: nnx.Module,
        task: Task,
        train_data: Iterable[Any],
        val_data: Iterable[Any] | None,
        config: TrainConfig,
        run_dir: Path,
        callbacks: tuple[Callback, ...] = (),
        augment: Augment | None = None,
        resume_hint: str = "",
    ):
        self.model, self.task, self.train_data = model, task, train_data
        self.val_data = None if val_data is None else Passes(val_data)
        if self.val_data is not None and not self.val_data.repeatable:
            raise UsageError(
                f"val_data ({type(val_data).__name__}) is good for one pass: use cssm.data.loader or a list"
            )
        self.config, self.run_dir, self.callbacks = config, run_dir, callbacks
        self.augment, self.resume_hint = augment, resume_hint
        self.plan = config.plan(len(train_data) if isinstance(train_data, Sized) else None)
        self.transform, self.schedule = optimizer(config, self.plan.steps)
        self.blueprint, self.mesh, self.cluster = Blueprint.of(model), global_mesh(), cluster()
        if config.batch_size % self.cluster.count:
            count = self.cluster.count
            raise UsageError(
                f"batch_size {config.batch_size} does not divide over {count} processes: choose a multiple"
            )
        if config.shard == "fsdp" and self.cluster.count > 1:
            raise UsageError("shard='fsdp' divides over the devices of one process: leave it out on several machines")
        self.accumulate = config.accumulate or 1
        self.couples = getattr(task, "couples_rows", False)  # micro-batches would be another loss
        self.best: tuple[float, int] | None = None  # score, step
        self.step = self.evaluated = 0
        self.earlier_seconds, self.started = 0.0, time.perf_counter()

    def run(self, *, resume: bool) -> TrainResult:
        """Train to the last step; in one process, with smaller micro-batches whenever memory runs out, or would."""
        check_loggers(self.config.loggers)
        remedy = f"to go on from its last checkpoint, {self.resume_hint}"
        store = RunStore(self.run_dir, self.config.keep, self.cluster)
        with self.cluster.together(remedy, before_exit=store.close), store as self.store:
            self.start(resume)
            if self.couples and self.accumulate > 1 and self.cluster.writes:
                say(
                    f"the loss compares the rows of a batch: with --accumulate {self.accumulate}, those of each of "
                    f"{self.accumulate} micro-batches of {self.micro_rows()} rows alone"
                )
            with RunLog(self.run_dir, self.config.loggers if self.cluster.writes else (), self.step) as self.log:
                self.emit("start", {})
                while (remedy := self.attempt()) is not None:
                    remedy()
                return self.finish()

    def start(self, resume: bool) -> None:
        """Step 0, or the newest whole checkpoint; there is always one on disk afterwards."""
        self.store.open(resume)
        if resume:
            self.restore()
            if self.step > self.plan.steps:
                raise UsageError(f"{self.run_dir} is at step {self.step} of {self.plan.steps}: ask for more steps")
            if self.step == self.plan.steps and self.cluster.writes:
                say(f"{self.run_dir} is finished, at step {self.step}: nothing is trained; ask for more steps to go on")
            Stream(self.train_data, self.data_state)  # raises, before anything is written, for data that cannot go on
        else:
            self.data_state = Stream(self.train_data).state()
            self.state = self.store.begin(self.fresh_state(), self.facts())
        if self.cluster.writes:
            write_environment(self.run_dir)

    def attempt(self) -> Callable[[], None] | None:
        """Run to the last step; what to do when memory ran out, or would: its frames and their arrays are gone then."""
        try:
            self.steps_to_the_end()
            return None
        except StepTooLarge as error:
            return partial(self.fit, error.need)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not out_of_memory(error):
                raise
            return partial(self.halve, str(error).partition("\n")[0] or "MemoryError")

    def steps_to_the_end(self) -> None:
        config, total = self.config, self.plan.steps
        train_step, self.eval_step = self.compiled_steps()
        stream = Stream(self.train_data, self.data_state)
        self.watch = Watch(self.task, self.write, every=config.log_every, last=total, rows=config.batch_size)
        shown = config.progress and self.cluster.writes
        with (
            Interrupts() as interrupts,
            closing(self.cluster.stop()) as stop,
            ProgressBar(total, self.step, enabled=shown) as self.bar,
            Prefetch(stream, self.place_train, config.prefetch) as batches,
        ):
            self.stopped = lambda: stop.here(interrupts.requested)
            if self.evaluated != self.step and self.plan.evaluates(self.step):  # stopped just before it
                self.evaluate_and_save()
                self.stop_if(self.stopped())
            checked = False
            while self.step < total:
                batch, data_state = next(batches)
                checked = checked or self.check_memory(train_step, batch)
                self.state, metrics = train_step(self.state, batch)
                self.step, self.data_state = self.step + 1, data_state
                if self.watch.flops is None and self.cluster.writes and jax.default_backend() != "cpu":
                    self.watch.flops = step_flops(train_step, self.state, batch)
                    self.watch.peak = devices_peak(self.config.compute_dtype)
                self.watch.add(self.step, metrics)
                self.store.check()
                self.stop_if(self.stopped())
                self.evaluate_and_save()
                self.stop_if(self.stopped())

    def builder(self) -> StepBuilder:
        return StepBuilder(
            task=self.task,
            blueprint=self.blueprint,
            mesh=self.mesh,
            dtype=jnp.dtype(self.config.compute_dtype),
            accumulate=self.accumulate,
            fsdp=self.config.shard == "fsdp",
        )

    def compiled_steps(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        builder = self.builder()
        step = builder.train_step(self.transform, self.schedule, ema=self.config.ema, augment=self.augment)
        return step, builder.eval_step()

    def evaluate_and_save(self) -> None:
        """Whatever is due after this step."""
        evaluates = self.plan.evaluates(self.step)
        improved = evaluates and self.evaluate()
        if improved or self.plan.saves(self.step):
            self.save(best=improved)
            self.watch.pause()
        if evaluates or self.plan.saves(self.step):
            self.cluster.wait()  # for the writer, here rather than inside the next step's collective operations

    def evaluate(self) -> bool:
        """Evaluate on the validation data; whether it is the best so far. A resumed run begins with one cut short."""
        self.watch.look_back()
        if self.val_data is None:
            self.evaluated = self.step
            return False
        step = partial(self.eval_step, self.eval_params(), self.state.rest)
        sums = run_evaluation(step, self.val_data, self.place, self.config.prefetch, self.stopped)
        figures = None if sums is None else self.task.summarise(sums)
        self.watch.pause()
        if figures is None:
            self.save_and_leave()
        self.evaluated = self.step
        monitor = self.task.monitor
        score = figures[monitor.name]
        improved = math.isfinite(score) and monitor.improves(score, self.best and self.best[0])
        if improved:
            self.best = score, self.step
        self.write({"kind": "eval", "step": self.step, **figures})
        return improved

    def write(self, record: Record) -> None:
        """Send one record everywhere."""
        record["seconds"] = round(self.seconds(), 3)
        with self.writing():
            self.log.write(record)
        if not self.cluster.writes:
            return
        if record["kind"] == "eval":
            figures = (f"{name} {record[name]:.4g}" for name in record if name not in ("kind", "step", "seconds"))
            say(f"step {record['step']}/{self.plan.steps}: validation {', '.join(figures)}")
            self.emit("eval", record)
        else:
            done = {name: record.get(name) for name in ("tflops", "mfu")}
            self.bar.show(record["step"], record["loss"], record["samples_per_second"], record["memory_mib"], **done)
            self.emit("log", record)

    def stop_if(self, requested: bool) -> None:
        if requested:
            self.save_and_leave()

    def save_and_leave(self) -> NoReturn:
        """On a signal: save, say how to go on, leave."""
        self.store.settle()
        if not self.store.holds(self.step):
            self.save()
            self.store.settle()
        if self.cluster.writes:
            say(f"interrupted: step {self.step} is saved in {self.run_dir}; to go on, {self.resume_hint}")
        self.cluster.wait()
        raise Interrupted(self.step)

    def check_memory(self, train_step: Callable[..., Any], batch: Any) -> bool:
        """True, or StepTooLarge for a step that can be cut and needs more than it may: on a CPU the system ends a
        process that takes too much, where a GPU reports it."""
        chosen = self.config.accumulate is not None or self.cluster.count > 1 or jax.default_backend() != "cpu"
        if not chosen and self.micro_rows() > self.mesh.size:
            need = step_bytes(train_step, self.state, batch)
            if need > memory.LARGEST_STEP and not self.couples:
                raise StepTooLarge(need)
        return True

    def fit(self, need: int) -> None:
        """As many micro-batches as a step of `need` bytes asks for, from the last checkpoint."""
        before, most = self.micro_rows(), memory.LARGEST_STEP
        self.accumulate = min(self.accumulate * 2 ** math.ceil(math.log2(need / most)), self.config.batch_size)
        self.again()
        parts = f"{self.accumulate} micro-batches of {self.micro_rows()} rows, to the same result"
        held = f"{need / 1e9:.3g} GB, above {most / 1e9:.3g}"
        say(f"a step of {before} rows needs {held}: {parts} (--accumulate 1 takes all rows at once)")

    def halve(self, failure: str) -> None:
        """Half the micro-batch, twice as many of them, from the last checkpoint."""
        before = self.micro_rows()
        if self.couples:
            remedy = f"give a smaller --batch-size, or --accumulate {2 * self.accumulate}, which is another loss"
            raise CssmError(
                f"out of memory with {before} rows at a time ({failure}), which the loss compares: {remedy}"
            )
        if self.cluster.count > 1:  # the others have gone on, and wait inside the step for this process
            remedy = f"repeat with --accumulate {2 * self.accumulate}, a smaller model or bfloat16"
            raise CssmError(f"out of memory with {before} rows at a time ({failure}): {remedy}")
        self.accumulate *= 2
        rows = self.micro_rows()
        if rows < SMALLEST_BATCH or rows == before:
            raise CssmError(f"out of memory with {before} rows at a time ({failure}): use a smaller model or bfloat16")
        self.again()
        say(
            f"out of memory: {self.accumulate} micro-batches of {rows} rows in place of {before}, from step {self.step}"
        )

    def again(self) -> None:
        """From the last checkpoint, in micro-batches as many as now."""
        del self.state
        self.restore(self.accumulate)
        self.log.rewind(self.step)

    def finish(self) -> TrainResult:
        self.store.settle()
        self.blueprint.write(self.model, *self.copied())
        self.emit("end", {})
        history, seconds = self.cluster.first(self.told_at_the_end)
        return TrainResult(
            best_score=self.best and self.best[0],
            best_step=self.best and self.best[1],
            final_step=self.step,
            seconds=seconds,
            history=tuple(history),
            skipped_steps=int(self.state.skipped),
            accumulate=self.accumulate,
            run_dir=self.run_dir,
        )

    def told_at_the_end(self) -> tuple[list[Record], float]:
        records = read_metrics(self.run_dir / "metrics.jsonl")
        return [record for record in records if record["kind"] == "eval"], self.seconds()

    def save(self, best: bool = False) -> None:
        """Everything an exact continuation needs; the metrics up to here are checked and written first."""
        self.watch.look_back()
        self.store.save(self.state, self.facts(), best)
        self.emit("checkpoint", {})

    def facts(self) -> Facts:
        """What is saved beside the arrays, as JSON."""
        facts = {"step": self.step, "data": self.data_state, "best": self.best, "evaluated": self.evaluated}
        return facts | {"accumulate": self.accumulate, "seconds": self.seconds(), "config": vars(self.config)}

    def restore(self, accumulate: int = 0) -> None:
        """Take up the newest whole checkpoint."""
        self.state, facts = self.store.restore(self.fresh_state())
        self.step, self.data_state, self.evaluated = facts["step"], facts["data"], facts["evaluated"]
        self.best = facts["best"] and tuple(facts["best"])
        self.accumulate = accumulate or max(self.config.accumulate or 1, facts["accumulate"])
        self.earlier_seconds, self.started = facts["seconds"], time.perf_counter()
        changes = self.config.changes_from(facts["config"])
        if changes and self.cluster.writes:
            log.warning("resuming with another configuration: %s", ", ".join(changes))

    def fresh_state(self) -> TrainState:
        state = init_state(self.model, self.transform, seed=self.config.seed, ema=self.config.ema is not None)
        layout = self.builder().layout
        return jax.tree.map(lambda value: put(value, layout(value)), state)

    def eval_params(self) -> Arrays:
        return self.state.params if self.state.ema is None else self.state.ema

    def copied(self) -> tuple[Arrays, Arrays]:
        """(evaluation params, rest) that later steps do not donate."""
        return jax.tree.map(own_copy, (self.eval_params(), self.state.rest))

    def place(self, batch: Any) -> Any:
        return place(batch, self.mesh, self.accumulate)

    def place_train(self, item: tuple[Any, Any]) -> tuple[Any, Any]:
        batch, data_state = item
        batch = pad_rows(batch, 1)
        rows, want = len(batch["valid"]) * self.cluster.count, self.config.batch_size
        if rows != want:
            raise UsageError(f"a training batch has {rows} rows and batch_size is {want}: make them equal")
        return self.place(batch), data_state

    def micro_rows(self) -> int:
        return math.ceil(self.config.batch_size / (self.accumulate * self.mesh.size)) * self.mesh.size

    def seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started

    def emit(self, kind: Kind, record: Record) -> None:
        """Call the callbacks, on process 0."""
        for callback in self.callbacks if self.cluster.writes else ():
            step = record.get("step", self.step)
            with self.writing():
                callback(Event(kind=kind, step=step, record=record, run_dir=self.run_dir, model=self.snapshot))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A full disk and the like, in one line that says how to go on."""
        try:
            yield
        except OSError as error:
            where, reason = error.filename or self.run_dir, error.strerror or str(error)
            remedy = f"make room, or see to the folder; to go on, {self.resume_hint}"
            raise CheckpointError(f"cannot write {where} ({reason}): {remedy}") from error

    def snapshot(self) -> nnx.Module:
        return self.blueprint.build(*self.copied())
