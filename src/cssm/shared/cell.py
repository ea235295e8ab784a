"""What both sides of the spectral cells share: the kinds, and what each is made of."""

from typing import NamedTuple

GATED, OPPONENT, DELTA, CONVOLUTION, SYSTEM = range(5)


class Counts(NamedTuple):
    """How many of each a kind has: fields that come in and go out, states, static spectra, gates per frequency (shared
    by channels) and gates per channel (shared by frequencies)."""

    inputs: int
    outputs: int
    states: int
    statics: int
    planes: int
    gates: int


def counts(kind: int, width: int = 1) -> Counts:
    """Of a kind; width: channels per head, of the delta rule.

    >>> counts(DELTA, 2)
    Counts(inputs=6, outputs=2, states=4, statics=1, planes=0, gates=2)
    """
    of_delta = Counts(3 * width, width, width * width, 1, 0, 2)
    others = Counts(1, 1, 1, 1, 3, 0), Counts(1, 2, 2, 3, 5, 1), of_delta, Counts(1, 1, 0, 1, 0, 0)
    return (*others, Counts(1, 1, 1, 2, 0, 0))[kind]


def blocks(channels: int, double: bool) -> int:
    """Tasks of a batch row: vectors of 64 bytes that hold its channels.

    >>> blocks(24, False), blocks(24, True)
    (2, 3)
    """
    return -(-channels // (8 if double else 16))


def task_size(height: int, width: int, double: bool) -> int:
    """Reals of one spectrum of a task: columns, one row more than there are apart."""
    return (width // 2 + 1) * (height + 1) * 2 * (8 if double else 16)
