"""Whether a plain value is of an annotated type: for options and configurations that come from text."""

import collections.abc
import dataclasses
import types
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cssm.core.errors import UsageError


def fits(value: Any, expected: Any) -> bool:
    """Whether value is of type `expected`: int passes for float, a list for a tuple; bool passes for neither number.

    What is not understood, such as a protocol, fits: this refuses only what is surely wrong.

    >>> fits(3, float | None), fits(2.5, int), fits("x", int), fits(True, int), fits([1, 2], tuple[int, int])
    (True, False, False, False, True)
    """
    origin, args = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if expected in (int, float):
        return isinstance(value, Integral if expected is int else Real) and not isinstance(value, bool)
    if expected is None:
        return value is None
    if origin in (tuple, list):
        return _fits_items(value, origin, args)
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return isinstance(value, origin) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    return _is_instance(value, origin or expected)


def describe(expected: Any) -> str:
    """How an annotation reads in an error: "int | None".

    >>> describe(int), describe(float | None)
    ('int', 'float | None')
    """
    return expected.__name__ if isinstance(expected, type) and not get_args(expected) else str(expected)


def check_fields(config: Any) -> None:
    """Raise UsageError unless every field of a dataclass is of the type it is annotated with."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, expected = getattr(config, field.name), hints[field.name]
        if not fits(value, expected):
            name = f"{type(config).__name__}.{field.name}"
            raise UsageError(f"{name} is {value!r}, expected {describe(expected)}")


def _fits_items(value: Any, origin: type, args: tuple) -> bool:
    if not isinstance(value, list if origin is list else (tuple, list)):
        return False
    if origin is tuple and args[-1:] != (...,):
        return len(value) == len(args) and all(map(fits, value, args))
    return all(fits(item, args[0]) for item in value)


def _is_instance(value: Any, expected: Any) -> bool:
    try:
        return not isinstance(expected, type) or isinstance(value, expected)
    except TypeError:  # a protocol that cannot be checked
        return True
