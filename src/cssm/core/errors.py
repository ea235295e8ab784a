"""Every error a user can meet: one line that names the thing, what was expected, and the remedy.

`exit_code` is what the command line returns: 2 for a mistake in what was asked, 1 for everything else.
"""

import difflib
from collections.abc import Iterable


class CssmError(Exception):
    """Base of all errors raised on purpose by cssm."""

    exit_code = 1


class UsageError(CssmError, ValueError):
    """What was asked for does not exist or does not fit together."""

    exit_code = 2


class UnknownNameError(UsageError, KeyError):
    """A name that is in no registry; the message says what was probably meant."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        self.message = f"unknown {kind} {name!r}: {hint}Known: {', '.join(known)}"
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would print the repr
        return self.message


class ShapeError(UsageError):
    """An array whose shape or dtype does not fit the operator, mixer or model it was given to."""


class DataError(CssmError):
    """A file or record that cannot be read as what it claims to be."""


class CheckpointError(CssmError):
    """A checkpoint that is missing, damaged, or of another model."""


class NonFiniteError(CssmError):
    """NaN or infinity where finite numbers were expected."""
