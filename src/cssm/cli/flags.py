"""From options to a run: the flags are the fields of the run's own dataclasses."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from cssm.core.errors import UsageError

from . import vocabulary
from .fields import Field, fields_of
from .values import parse_value
from .words import Option

PARTS = ("model", "task", "data", "augment", "train")


def run_fields(run: Any) -> list[Field]:
    """Every field of every part of a run, and the sizes of its splits."""
    parts = [field for part in PARTS if getattr(run, part) is not None for field in fields_of(getattr(run, part), part)]
    return [*parts, *(field for field in fields_of(run) if field.name not in (*PARTS, "recipe"))]


def by_field(options: Iterable[Option], run: Any, command: str) -> dict[str, Option]:
    """The options under the full names of the fields they give; options of the mixer are put together.

    Raises UsageError for a name that no field has (with "did you mean"), or that only other data sets or models have.
    """
    known, given = vocabulary.names(run_fields(run)), {}
    for option in options:
        name, values = option.name, option.values
        if name in vocabulary.MIXER_OPTIONS and name not in known and "model.mixer_options" in known:
            name, values = "model.mixer_options", (f"{name}={option.value()}",)
        path = _path(name, option, known, command, f"{type(run.data).__name__} or {type(run.model).__name__}")
        before = given[path].values if path == "model.mixer_options" and path in given else ()
        given[path] = option._replace(values=(*before, *values))
    return _one_unit(given)


def overridden(run: Any, given: Mapping[str, Option]) -> Any:
    """`run` with the given fields put in. UsageError for a value of a wrong type, out of range, or a contradiction."""
    kinds = {field.path: field.kind for field in run_fields(run)}
    changes = {path: parse_value(option, kinds[path]) for path, option in given.items()}
    if {"train.steps", "train.epochs"} <= given.keys():
        raise UsageError("give --steps or --epochs, not both")
    undone = _undone(run, changes)
    if changes.get("model.mixer_options"):  # none given: those of the recipe go
        kept = undone.get("model.mixer_options", run.model.mixer_options)
        changes["model.mixer_options"] = {**kept, **changes["model.mixer_options"]}
    try:
        return replaced(run, undone | changes)
    except UsageError as error:
        raise UsageError(_as_typed(str(error), given)) from None


def _as_typed(message: str, given: Mapping[str, Option]) -> str:
    """An error of a field, which begins with its name, under the option that gave it, as the user typed it.

    >>> _as_typed("seed is -1: expected 0 or more", {"train.seed": Option("seed", ("-1",), "--seed")})
    '--seed -1: seed is -1: expected 0 or more'
    """
    named = message.partition(" ")[0].partition("=")[0]
    for path, option in given.items():
        if path.rpartition(".")[2] == named:
            return f"{' '.join((option.typed, *option.values))}: {message}"
    return message


def replaced(run: Any, changes: Mapping[str, Any]) -> Any:
    """`run` with fields of its parts, by their full names, changed."""
    parts: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        part, _, name = path.rpartition(".")
        parts.setdefault(part, {})[name] = value
    own = parts.pop("", {})
    return dataclasses.replace(run, **own, **{p: dataclasses.replace(getattr(run, p), **c) for p, c in parts.items()})


def check_kept(run: Any, asked: Any, given: Mapping[str, Option]) -> None:
    """UsageError for an option that did not survive, because the data decides: no option is accepted and ignored."""
    before, now = ({field.path: field.value for field in run_fields(r)} for r in (asked, run))
    for path, option in given.items():
        if now[path] != before[path]:
            raise UsageError(
                f"{option.typed} {' '.join(option.values)} does not hold: the data says {now[path]}; leave it out, or "
                "choose other data"
            )


def check_continued(run: Any, given: Mapping[str, Option]) -> None:
    """UsageError for an option that would make a saved run another one; how it is trained may change."""
    saved = {field.path: field for field in run_fields(run)}
    for path, option in given.items():
        value = parse_value(option, saved[path].kind)
        if path == "model.mixer_options":
            value = {**saved[path].value, **value}
        if not path.startswith("train.") and value != saved[path].value:
            raise UsageError(
                f"--resume continues the run as it was: its {saved[path].flag} is {saved[path].value}, not {value}; "
                f"leave {option.typed} out"
            )


def _one_unit(given: dict[str, Option]) -> dict[str, Option]:
    """Where a file gives steps and the command line epochs, or the other way round, the command line wins."""
    both = [path for path in ("train.steps", "train.epochs") if path in given]
    of_file = [path for path in both if not given[path].typed.startswith("--")]
    if len(both) == 2 and len(of_file) == 1:
        del given[of_file[0]]
    return given


def _path(name: str, option: Option, known: Mapping[str, Field], command: str, kinds: str) -> str:
    part, _, own = name.rpartition(".")
    positive = name if not own.startswith("no_") else f"{part}.{own[3:]}".lstrip(".")
    for candidate in (name, positive):
        if candidate in known and (candidate == name or known[candidate].kind is bool):
            return known[candidate].path
    augments, others = _elsewhere(vocabulary.plain_name(own))
    if others:
        raise UsageError(f"{option.typed} does not apply to {kinds}: leave it out")
    if augments:
        raise UsageError(
            f"{option.typed} does nothing without an augmentation that has it: add --augment {augments[0]}"
        )
    if own in vocabulary.REFUSED:
        raise UsageError(f"{option.typed} is no option here: {vocabulary.REFUSED[own]}; leave it out")
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean --{close[0].replace('_', '-')}? " if close else ""
    raise UsageError(f"{command} has no option {option.typed}: {hint}{command} --help-all lists them all")


def _elsewhere(name: str) -> tuple[list[str], list[str]]:
    """The augmentations, and the data sets and models, that have a field of that name."""
    from cssm.data import DATASETS
    from cssm.data.augment import AUGMENTS
    from cssm.models import MODELS

    def having(kinds: Mapping[str, Any]) -> list[str]:
        return [each for each, kind in kinds.items() if name in {field.name for field in dataclasses.fields(kind)}]

    models = {each: type(MODELS[each]) for each in MODELS.names()}
    augments = {each: AUGMENTS[each] for each in AUGMENTS.names()}
    return having(augments), having({each: DATASETS[each] for each in DATASETS.names()} | models)


def _undone(run: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a given field takes with it: the options of another mixer, the other unit of time, its intervals."""
    undone: dict[str, Any] = {}
    if "model.mixer" in changes and changes["model.mixer"] != run.model.mixer:
        undone["model.mixer_options"] = {}
    for unit, other in (("steps", "epochs"), ("epochs", "steps")):
        if f"train.{unit}" in changes and getattr(run.train, other) is not None:
            undone |= dict.fromkeys((f"train.{other}", "train.eval_every", "train.checkpoint_every"))
    return undone
