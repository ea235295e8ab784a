"""Named sizes of the S4 kernels, shared by the tests and the benchmark."""

from typing import NamedTuple


class Case(NamedTuple):
    init: str
    heads: int
    d_state: int
    channels: int
    length: int


TESTS = {
    "legs": Case("legs", 3, 8, 2, 24),
    "fourier": Case("fourier", 3, 8, 2, 24),
    "one_tap": Case("legs", 2, 2, 3, 1),
}

DIAGONAL_TESTS = {name: Case(name, 3, 8, 2, 24) for name in ("legt", "lin", "inv", "inv2", "quad", "real")} | TESTS

BENCHMARKS = {
    "layer": Case("legs", 64, 64, 1, 1024),
    "long": Case("legs", 64, 64, 1, 4096),
}
