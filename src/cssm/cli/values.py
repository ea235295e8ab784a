"""From the words of an option to the value of a field, by the field's type."""

import contextlib
import dataclasses
import io
import json
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from cssm.core.errors import UsageError

from .words import Option

BOOLEANS = {"true": True, "false": False}


def parse_value(option: Option, kind: Any) -> Any:
    """The value of type `kind` that an option gives, read by tyro. Raises UsageError naming the option as typed.

    >>> parse_value(Option("grid", ("3", "4"), "--grid"), tuple[int, int])
    (3, 4)
    """
    if kind is bool:
        return _boolean(option)
    if _is_mapping(kind):
        return parse_pairs(option)
    import tyro

    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
            holder = dataclasses.make_dataclass("Option", [("value", kind)])
            return tyro.cli(holder, args=["--value", *option.values]).value
    except SystemExit:
        words = " ".join((option.typed, *option.values))
        raise UsageError(f"{words}: expected {metavar(kind)}") from None


def metavar(kind: Any) -> str:
    """How a type reads in help and in errors.

    >>> metavar(int | None), metavar(tuple[int, int])
    ('INT|None', 'INT INT')
    """
    if kind is bool:
        return "true|false"
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, args)) + "}"
    if origin in (Union, types.UnionType):
        return "|".join("None" if arg is type(None) else metavar(arg) for arg in args)
    if origin is tuple:
        return f"{metavar(args[0])} ..." if args[-1] is ... else " ".join(map(metavar, args))
    return "NAME=VALUE ..." if _is_mapping(kind) else getattr(kind, "__name__", "value").upper()


def parse_pairs(option: Option) -> dict[str, Any]:
    """name=value -> number, true, false, null or word."""
    options = {}
    for text in option.values:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option.typed} {text!r}: expected name=value, such as memory=8.0")
        try:
            options[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            options[name] = None if value == "None" else value
    return options


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _boolean(option: Option) -> bool:
    text = option.value().lower() if option.values else "true"
    if text not in BOOLEANS:
        raise UsageError(f"{option.typed} {text}: expected true or false")
    return BOOLEANS[text] != option.name.rpartition(".")[2].startswith("no_")
