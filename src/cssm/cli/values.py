"""From the words of an option to the value of a field, by the field's type."""

import contextlib
import io
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, get_origin

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
            return tyro.cli(Annotated[kind, tyro.conf.arg(name="value")], args=["--value", *option.values], prog="cssm")
    except SystemExit:
        raise UsageError(f"{option.typed} {' '.join(option.values)}: {_reason(heard.getvalue(), kind)}") from None


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


def _reason(text: str, kind: Any) -> str:
    """tyro's box as part of a line."""
    from cssm.shared.annotations import describe

    words = " ".join(re.sub(r"[╭╮╰╯│─]+", " ", line).strip() for line in text.splitlines()).split("Argument helptext")[
        0
    ]
    found = re.search(r"invalid choice[^.]*|Could not parse[^.]*", words)
    return f"expected {describe(kind)}" + (f" ({found[0].strip()})" if found and "choice" in found[0] else "")
