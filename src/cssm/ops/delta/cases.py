"""Named shapes of the delta rule and of decayed attention, shared by the tests and the benchmark."""

from typing import NamedTuple


class Case(NamedTuple):
    batch: int
    steps: int
    heads: int
    keys: int
    values: int
    frequencies: tuple[int, ...] = ()
    complex: bool = False
    gain: bool = False


TESTS = {
    "spectral": Case(2, 7, 2, 2, 2, (3, 4), complex=True, gain=True),
    "spectral_without_gain": Case(2, 5, 1, 4, 3, (5,), complex=True),
    "one_step": Case(2, 1, 2, 2, 2, (3,), complex=True, gain=True),
    "tokens": Case(2, 13, 2, 4, 3),
    "many_tokens": Case(1, 150, 2, 4, 6),  # three chunks, the last one partly filled
}

BENCHMARKS = {
    "gdn": Case(2, 32, 16, 2, 2, (32, 17), complex=True, gain=True),
    "tokens": Case(2, 1024, 4, 16, 16),
}
