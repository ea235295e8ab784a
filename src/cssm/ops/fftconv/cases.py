"""Named shapes of the FFT convolutions, shared by the tests and the benchmark."""

from typing import NamedTuple


class Ssm(NamedTuple):
    """x (batch, length, inputs), K (taps, states), B_ (states, inputs), C (outputs, states)."""

    batch: int
    length: int
    inputs: int
    outputs: int
    states: int
    taps: int


class Spatial(NamedTuple):
    """x (batch, *grid, channels), kernel (channels, *taps)."""

    x: tuple[int, ...]
    taps: tuple[int, ...]


TESTS = {
    "even": Ssm(2, 8, 3, 3, 5, 8),
    "prime_length": Ssm(2, 13, 2, 4, 3, 13),
    "one_step": Ssm(1, 1, 2, 3, 2, 1),
    "short_kernel": Ssm(3, 11, 4, 2, 6, 4),
    "long_kernel": Ssm(2, 7, 2, 3, 5, 19),
    "one_channel": Ssm(2, 9, 1, 1, 4, 9),
}

SPATIAL_TESTS = {
    "signal": Spatial((2, 13, 3), (5,)),
    "square": Spatial((2, 8, 8, 2), (3, 3)),
    "odd": Spatial((1, 7, 9, 3), (5, 4)),
    "one_row": Spatial((2, 1, 8, 2), (3, 5)),
    "kernel_larger_than_grid": Spatial((2, 4, 5, 2), (11, 9)),
    "video": Spatial((1, 3, 5, 4, 2), (3, 3, 2)),
}

BENCHMARKS = {
    "wide": Ssm(32, 1024, 64, 64, 128, 1024),
    "long": Ssm(8, 4096, 64, 64, 16, 4096),
}

SPATIAL_BENCHMARKS = {f"{k}x{k}": Spatial((8, 56, 56, 128), (k, k)) for k in (3, 5, 7, 11, 15, 21, 31)}
