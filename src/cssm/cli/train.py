"""cssm train: a recipe, any of its values overridden by the command line or a TOML file."""

import dataclasses
import itertools
import json
import shlex
import time
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

from cssm.core.errors import UsageError

from .common import prepare_process
from .fields import fields_of
from .values import parse_value
from .words import Option, options_of, take


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Options of the command itself: where the run goes, and how it is started."""

    out: Path | None = None
    """Run folder; None: runs/RECIPE-DATE-TIME."""
    resume: bool = False
    """Continue the run in --out, or the newest run of this recipe."""
    distributed: bool = False
    """One of several processes of the run, as Slurm, Open MPI or another launcher that JAX knows started it."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where no launcher says it; with --processes and --process-id."""
    processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is, from 0."""
    join_timeout: float = 120.0
    """Seconds to wait for the other processes at the start."""

    @property
    def several(self) -> bool:
        return self.distributed or (self.coordinator, self.processes, self.process_id) != (None, None, None)


def main(argv: list[str]) -> int:
    from cssm.recipes import RECIPES

    from .help import recipes_help, train_help

    asked_help = [word for word in argv if word in ("-h", "--help", "--help-all")]
    words = [word for word in argv if word not in asked_help]
    name = words.pop(0) if words and not words[0].startswith("-") else None
    options = options_of(words)
    name = _recipe_of(options, name)
    if name is None:
        if asked_help or not argv:
            print(recipes_help(RECIPES), end="")
        if asked_help:
            return 0
        known = ", ".join(RECIPES.names())
        raise UsageError(f'cssm train: name a recipe first (in a file: recipe = "NAME"): {known}')
    recipe, command = RECIPES[name], _command(options)
    if asked_help:
        from .parts import with_parts

        run = with_parts(recipe(), options)
        print(train_help(name, run, command, recipe.__doc__ or "", "--help-all" in asked_help), end="")
        return 0
    with _processes(command) as processes, ExitStack() as stack:
        run = None if command.resume else _new(recipe(), options, name)
        run_dir = Path(processes.first(lambda: str(_run_dir(name, command))))
        if command.out is None and not command.resume and processes.writes:
            stack.callback(_remove_empty, run_dir)
        run = _resumed(run_dir, options, name) if run is None else run
        prepare_process()
        return _train(run, run_dir, command.resume, [name, *words])


def _processes(command: Command) -> Any:
    """The processes of the run, joined where there are several."""
    from cssm.train import cluster, join

    if not command.several:
        return nullcontext(cluster())
    return join(command.coordinator, command.processes, command.process_id, timeout=command.join_timeout)


def _recipe_of(options: list[Option], name: str | None = None) -> str | None:
    """`name`, or the recipe that a file or a data set names: command lines of published code have none."""
    from cssm.data import DATASETS
    from cssm.recipes import RECIPES

    named = take(options, ("recipe",))
    if named is not None:
        if name not in (None, named.value()):
            raise UsageError(f"{named.typed} is {named.value()}, the command line says {name}: leave one of them out")
        return named.value()
    dataset = next((option for option in options if option.name == "dataset"), None)
    if name is None and dataset is not None:
        name = DATASETS.canonical(dataset.value())
        if name not in RECIPES:
            known = ", ".join(RECIPES.names())
            raise UsageError(f"data set {name!r} has no recipe of its own: name one of {known} before the options")
    if name is not None:
        return name
    return "imagenette" if any(option.name in ("arch", "model") for option in options) else None


def _command(options: list[Option]) -> Command:
    values = {}
    for field in fields_of(Command()):
        option = take(options, (field.name,))
        if option is not None:
            values[field.name] = parse_value(option, field.kind)
    command = Command(**values)
    if "join_timeout" in values and not command.several:
        raise UsageError("--join-timeout is for several processes: add --distributed, or leave it out")
    return command


def _new(run: Any, options: list[Option], name: str) -> Any:
    """The recipe's run with the options put in, and with what follows from its data."""
    from .flags import by_field, check_kept, overridden
    from .parts import with_parts

    run = with_parts(run, options)
    given = by_field(options, run, f"cssm train {name}")
    asked = overridden(run, given)
    run = asked.fitted()
    check_kept(run, asked, given)
    return run


def _resumed(run_dir: Path, options: list[Option], name: str) -> Any:
    """The run as it was saved; options change how it is trained, not what."""
    from cssm.recipes import load_saved
    from cssm.train import cluster
    from cssm.train.saved_config import decode, encode

    from .flags import by_field, check_continued, overridden
    from .parts import with_parts

    run = decode(cluster().first(lambda: encode(load_saved(run_dir))))
    if run.recipe != name:
        raise UsageError(f"{run_dir} holds a run of {run.recipe!r}, not {name!r}: name that recipe, or another --out")
    moved = take(options, ("data_dir", "tfrecord_dir", "data.root"))
    run = run if moved is None else run.with_root(Path(moved.value()))
    chosen = with_parts(run, options)
    for part in ("model", "data", "augment"):
        if getattr(chosen, part) != getattr(run, part):
            raise UsageError(f"--resume continues the run as it was: {_difference(run, chosen, part)}; leave it out")
    given = by_field(options, run, f"cssm train {name}")
    check_continued(run, given)
    return overridden(run, {path: option for path, option in given.items() if path.startswith("train.")})


def _difference(run: Any, chosen: Any, part: str) -> str:
    """In words, the first thing in which two runs differ in a part."""
    was, now = getattr(run, part), getattr(chosen, part)
    if type(was) is not type(now):
        return f"its {part} is {type(was).__name__}, not {type(now).__name__}"
    name = next(f.name for f in dataclasses.fields(was) if getattr(was, f.name) != getattr(now, f.name))
    return f"its --{part}.{name} is {getattr(was, name)}, not {getattr(now, name)}"


def _run_dir(recipe: str, command: Command) -> Path:
    if command.out is not None:
        return command.out
    if not command.resume:
        return _fresh(Path("runs") / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}")
    runs = [path.parent for path in Path("runs").glob(f"{recipe}-*/checkpoints")]
    if not runs:
        raise UsageError(f"--resume: no run of {recipe!r} in runs/; name its folder with --out")
    return max(runs, key=_last_step)


def _fresh(path: Path) -> Path:
    """`path`, or path-2, path-3, ... where another run has begun in the same second. Made, so that it is no other's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for count in itertools.count(2):
        try:
            path.mkdir()
            return path
        except FileExistsError:
            path = path.with_name(f"{path.name.partition('_')[0]}_{count}")
    raise AssertionError


def _remove_empty(folder: Path) -> None:
    """A run that could not start leaves no folder behind."""
    for path in (folder, folder.parent):
        with suppress(OSError):  # it holds something
            path.rmdir()


def _last_step(run_dir: Path) -> float:
    """When a run last wrote a record or a checkpoint."""
    written = (path for path in (run_dir / "metrics.jsonl", run_dir / "checkpoints") if path.exists())
    return max(path.stat().st_mtime for path in written)


def _train(run: Any, run_dir: Path, resume: bool, argv: list[str]) -> int:
    from rich.console import Console

    from cssm.recipes import execute
    from cssm.train import cluster
    from cssm.train.progress import say

    rest = _without(argv, "--resume")
    out = [] if any(a.partition("=")[0] == "--out" for a in rest) else ["--out", str(run_dir)]
    hint = f"cssm train {shlex.join([*rest, *out])} --resume"
    if cluster().count > 1:
        hint += " (on every process, with its own --process-id where one is given)"
    started = lambda event: say(f"run folder {run_dir}") if event.kind == "start" else None  # noqa: E731
    report = execute(run, run_dir, resume=resume, resume_hint=hint, callbacks=(started,))
    if not cluster().writes:
        return 0
    Console().print(_table(run, report))
    for name, path in report.artifacts.items():
        print(f"{name}: {path}")
    print(json.dumps(report.summary()))
    return 0


def _without(words: list[str], flag: str) -> list[str]:
    """The words of a command line without a flag, and without the true or false that follows it.

    >>> _without(["demo", "--resume", "true", "--steps=3"], "--resume"), _without(["--resume=true", "--lr"], "--resume")
    (['demo', '--steps=3'], ['--lr'])
    """
    value = lambda i: i > 0 and words[i - 1] == flag and not words[i].startswith("--")  # noqa: E731
    return [word for i, word in enumerate(words) if word.partition("=")[0] != flag and not value(i)]


def _table(run: Any, report: Any):
    from rich.table import Table

    table = Table(title=f"{run.recipe}: {type(run.data).__name__}", title_justify="left")
    for column in ("what", "value"):
        table.add_column(column, justify="right" if column == "value" else "left")
    result, baseline = report.result, report.baseline
    table.add_row("validation, best checkpoint", report.described)
    if baseline is not None:
        table.add_row(f"{baseline.title} baseline", str(baseline))
    table.add_row("parameters", f"{report.parameters:,}")
    table.add_row("steps (best at)", f"{result.final_step:,} ({result.best_step:,})")
    table.add_row(
        "training time", f"{result.seconds:.0f} s, {1e3 * result.seconds / max(result.final_step, 1):.0f} ms a step"
    )
    return table
