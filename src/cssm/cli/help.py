"""The help of `cssm train`: the fields of the run, in the groups of its parts, with the recipe's values."""

import inspect
import textwrap
from collections.abc import Iterable
from typing import Any

from . import vocabulary
from .fields import Field, fields_of
from .flags import PARTS, run_fields
from .values import metavar

CHOICES = """\
  --arch NAME         model (cssm list models)
  --dataset NAME      data set (cssm list datasets)
  --data-dir DIR      folder of published or made files, or of your own
  --augment NAME      augmentation: none, flip_shift, photo, views
  --config FILE       TOML with any of these options, and recipe = "NAME"; the command line wins\
"""


def train_help(name: str, run: Any, command: Any, doc: str, everything: bool) -> str:
    """The text of `cssm train NAME --help`, or of --help-all."""
    fields = run_fields(run)
    shown = fields if everything else [field for field in fields if field.path in vocabulary.COMMON]
    groups = [("run", CHOICES + "\n" + _lines(fields_of(command), {}))]
    for part in PARTS:
        config = getattr(run, part)
        if config is not None:
            mine = [field for field in shown if field.path.startswith(f"{part}.")]
            groups.append((f"{part}: {type(config).__name__}", _lines(mine, _shortest(fields))))
    groups.append(("sizes", _lines([field for field in shown if "." not in field.path], {})))
    head = f"usage: cssm train {name} [options]\n\n{inspect.cleandoc(doc)}\n"
    more = (
        ""
        if everything
        else f"\ncssm train {name} --help-all shows every option ({len(fields)}) by its full name too.\n"
    )
    return head + "".join(f"\n{title}\n{text}\n" for title, text in groups if text) + more


def _shortest(fields: Iterable[Field]) -> dict[str, str]:
    """For every field the name that people type: that of published code, else the field's own."""
    best: dict[str, str] = {}
    known = vocabulary.names(fields)
    for name in (*vocabulary.SHORT, *known):
        if name in known and "." not in name:
            best.setdefault(known[name].path, name)
    return best


def _lines(fields: Iterable[Field], short: dict[str, str]) -> str:
    return "\n".join(_line(field, short.get(field.path)) for field in fields)


def _line(field: Field, short: str | None) -> str:
    on = "no-" if field.value is True and field.kind is bool else ""  # the option that changes something
    name = f"--{on}{(short or field.path).replace('_', '-')}"
    head = f"  {name} {'' if field.kind is bool else metavar(field.kind)}".rstrip()
    full = f" [{field.flag}]" if short and short != field.name else ""
    text = f"{field.doc}{full} (now: {_value(field.value)})"
    return _wrapped(head, text)


def _wrapped(head: str, text: str, width: int = 110, indent: int = 34) -> str:
    lines = textwrap.wrap(text, width - indent)
    first = f"{head:<{indent - 1}} " if len(head) < indent else f"{head}\n{' ' * indent}"
    return first + f"\n{' ' * indent}".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={item}" for name, item in value.items()) or "none"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)


def recipes_help(recipes: Any) -> str:
    """The text of `cssm train --help`."""
    lines = [f"  {name:<15} {recipes[name].__doc__.splitlines()[0]}" for name in recipes.names()]
    return (
        "usage: cssm train RECIPE [options]    (cssm train RECIPE --help shows its options)\n\n"
        "Trains a recipe, any value of it overridden; writes checkpoints, metrics, curves and predictions.\n\n"
        "recipes:\n" + "\n".join(lines) + "\n\n"
        "examples:\n"
        "  cssm train demo                                          minutes on two cores\n"
        "  cssm train pathtracker --cssm conv_ssm --embed-dim 64\n"
        "  cssm train images --data-dir photographs                 DIR/CLASS/*.jpg\n"
        "  cssm train pathtracker --out runs/a --resume             exactly where it stopped\n"
        "  cssm train --config run.toml                             the options in a file\n"
    )
