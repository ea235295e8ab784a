"""Named shapes of the linear scan and the decay scan, shared by the tests and the benchmark."""

from typing import NamedTuple


class Case(NamedTuple):
    a: tuple[int, ...]
    b: tuple[int, ...]
    complex_a: bool = False
    complex_b: bool = False


TESTS = {
    "same_shape": Case((2, 7, 3), (2, 7, 3)),
    "one_step": Case((2, 1, 3), (2, 1, 3)),
    "decay_without_channels": Case((2, 13, 4, 1), (2, 13, 4, 5)),
    "constant_in_time": Case((3, 1, 5), (3, 11, 5)),
    "spectrum": Case((3, 4, 3), (2, 9, 3, 4, 3), complex_a=True, complex_b=True),
    "real_decay_complex_input": Case((2, 17, 3), (2, 17, 3), complex_b=True),
    "complex_decay_real_input": Case((2, 6, 3), (2, 6, 3), complex_a=True),
    "prime_length": Case((1, 61, 2), (1, 61, 2)),
}

BENCHMARKS = {
    "decay": Case((2, 1024, 64, 1), (2, 1024, 64, 64)),
    "spectrum": Case((32, 32, 17), (2, 64, 32, 32, 17), complex_a=True, complex_b=True),
}

# decay scan: shape (B, T, R, C) of x; log_a has (B, T, R)
DECAY_TESTS = {
    "odd": (2, 9, 3, 5),
    "one_step": (2, 1, 3, 2),
    "one_row": (1, 17, 1, 4),
    "one_channel": (2, 13, 5, 1),
}

DECAY_BENCHMARKS = {
    "decay_scan": (2, 1024, 64, 64),
    "decay_scan_long": (8, 8192, 64, 64),  # far beyond every cache
}
