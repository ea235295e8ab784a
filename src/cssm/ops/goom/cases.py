"""Named shapes of GOOM recurrences and matrix products, shared by the tests and the benchmark."""

from typing import NamedTuple


class Case(NamedTuple):
    """a (transition) broadcasts to b; time is axis 1 of b."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    complex: bool = True


TESTS = {
    "real": Case((2, 4, 3), (2, 4, 3), complex=False),
    "one_step": Case((2, 1, 3), (2, 1, 3)),
    "decay_without_channels": Case((2, 3, 1), (2, 3, 3), complex=False),
    "constant_in_time": Case((3,), (2, 3, 3)),
    "spectrum": Case((2, 3, 2), (2, 5, 2, 3, 2)),
}
MATRIX_TESTS = {"two_by_two": (5, 2, 2), "batch_of_three_by_three": (2, 2, 3, 3), "one": (1, 2, 2)}

BENCHMARKS = {
    "spectrum": Case((32, 32, 17), (2, 32, 32, 32, 17)),
    "long": Case((1, 1), (4, 10_000, 32)),
}
