"""What an FFT convolution will cost: fast lengths, and the cheapest strategy for given sizes. Pure Python.

The rates were measured on 2 CPU cores; ops/fftconv/README.md has the tables.
"""

from collections.abc import Sequence
from math import log2, prod

from .fft_shapes import SsmSizes

SSM_STRATEGIES = ("kernel", "projection", "fallback")
SPATIAL_STRATEGIES = ("fft", "direct")
WORKSPACE = 4 << 20  # bytes of spectra in flight: what stays in cache

# nanoseconds per: n log2 n of a real transform; flop of a product over time; flop of a product per frequency;
# element of a spectrum; call
RATES = {
    "torch": {
        "kernel": (0.25, 0.0094, 0.040, 0.001, 100e3),
        "projection": (0.15, 0.0090, 0.0, 0.001, 28e3),
        "fallback": (0.040, 0.0, 0.011, 0.57, 39e3),
    },
    "jax": {
        "kernel": (0.16, 0.0074, 0.042, 0.001, 28e3),
        "projection": (0.11, 0.0065, 0.0, 0.001, 16e3),
        "fallback": (0.079, 0.0, 0.0085, 0.48, 23e3),
    },
}

# nanoseconds per: element, element and tap of a direct depthwise convolution; n log2 n of a transform there and back
SPATIAL_RATES = {
    "torch": (1.0, 0.023, 0.55),
    "torch with gradient": (1.5, 0.25, 1.45),
    "jax": (0.0, 2.3, 0.55),
    "jax compiled": (0.0, 2.3, 0.21),
}
ACCELERATOR_TAPS = 1024  # not measured: direct up to a 31 x 31 kernel


def fast_length(n: int) -> int:
    """The smallest even length of prime factors 2, 3 and 5 that is at least n (1 for n = 1).

    >>> [fast_length(n) for n in (1, 7, 11, 71, 2047)]
    [1, 8, 12, 72, 2048]
    """
    half = (n + 1) // 2
    while n > 1 and not _smooth(half):
        half += 1
    return max(1, 2 * half) if n > 1 else 1


def _smooth(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


def ssm_length(sizes: SsmSizes) -> int:
    """Length of the transforms of a causal convolution: none of its first `length` steps wraps around."""
    return fast_length(sizes.length + sizes.taps - 1)


def block_of(batch: int, channels: int, length: int) -> int:
    """How many examples to transform at once so that their spectra stay in cache.

    >>> block_of(32, 128, 2048), block_of(8, 16, 8192)
    (2, 4)
    """
    return max(1, min(batch, WORKSPACE // (8 * channels * length)))


def ssm_work(sizes: SsmSizes, strategy: str, planes: int, real_input: bool) -> tuple[float | int, ...]:
    """(n log n of real transforms, flops in time, flops per frequency, elements of spectra, 1) of one call.

    planes is 1 where K, B_ and C are real, 2 where they are complex.
    """
    batch, states, taps = sizes.batch, sizes.states, sizes.taps
    n, ends, full = ssm_length(sizes), sizes.inputs + sizes.outputs, sizes.inputs * sizes.outputs
    if strategy == "kernel":
        channels = batch * ends + full
        time, frequency = 2 * planes * taps * states * full, 4 * n * batch * full
    elif strategy == "projection":
        channels = planes * (2 * batch + 1) * states
        time, frequency = 2 * planes * batch * sizes.length * states * ends, 0
    else:
        channels = batch * ends + planes * states
        time, frequency = 0, 4 * n * batch * planes * states * ends
    inputs = 1 if real_input else 2
    mirrored = 4 if planes == 2 and real_input else 0  # of K, B_ and C: see _with_conjugates
    spectra = n * channels + (n * (batch + mirrored) * planes * states if strategy == "fallback" else 0)
    return inputs * channels * n * log2(max(n, 2)), inputs * time, inputs * frequency, inputs * spectra, 1


def choose_ssm_strategy(face: str, sizes: SsmSizes, *, real_parameters: bool, real_input: bool) -> str:
    """The strategy of the least predicted time.

    >>> from cssm.shared.fft_shapes import ssm_sizes
    >>> choose_ssm_strategy(
    ...     "torch", ssm_sizes((8, 4096, 64), (4096, 16), (16, 64), (64, 16)), real_parameters=False, real_input=True
    ... )
    'projection'
    """
    planes, nanoseconds = 1 if real_parameters else 2, []
    for strategy in SSM_STRATEGIES:
        work = ssm_work(sizes, strategy, planes, real_input)
        nanoseconds.append(sum(rate * amount for rate, amount in zip(RATES[face][strategy], work, strict=True)))
    return SSM_STRATEGIES[nanoseconds.index(min(nanoseconds))]


def scan_chunk(length: int) -> int:
    """Steps per chunk of a two-level scan: about the square root of the length, so that both loops are short.

    >>> scan_chunk(1), scan_chunk(1000), scan_chunk(4096)
    (1, 32, 64)
    """
    return max(1, round(length**0.5))


def reach(grid: int, taps: int) -> tuple[int, int, int]:
    """(first, last + 1, centre) of the taps that reach from some point of the grid to another; taps // 2 is the centre.

    >>> reach(8, 5), reach(2, 7)
    ((0, 5, 2), (2, 5, 1))
    """
    centre = taps // 2
    first, stop = max(0, centre - grid + 1), min(taps, centre + grid)
    return first, stop, centre - first


def spatial_lengths(grid: Sequence[int], taps: Sequence[int], boundary: str) -> tuple[int, ...]:
    """Transform length of each axis: what wraps around falls outside the grid, which is cropped.

    >>> spatial_lengths((56, 56), (31, 3), "zero"), spatial_lengths((7, 9), (3, 3), "circular")
    ((72, 60), (7, 9))
    """
    if boundary == "circular":
        return tuple(grid)
    margins = (max(centre, stop - first - 1 - centre) for first, stop, centre in map(reach, grid, taps))
    return tuple(fast_length(n + margin) for n, margin in zip(grid, margins, strict=True))


def choose_spatial_strategy(
    rates: str,
    batch: int,
    grid: Sequence[int],
    channels: int,
    taps: Sequence[int],
    boundary: str,
    *,
    on_cpu: bool = True,
) -> str:
    """ "fft" or "direct", whichever is predicted to be faster; on accelerators direct up to ACCELERATOR_TAPS taps.

    >>> [choose_spatial_strategy("torch", 8, (56, 56), 128, (k, k), "zero") for k in (3, 31)]
    ['direct', 'fft']
    """
    if boundary == "circular" and any(k > n for k, n in zip(taps, grid, strict=True)):
        return "fft"
    if not on_cpu:
        return "direct" if prod(taps) <= ACCELERATOR_TAPS else "fft"
    element, tap, transform = SPATIAL_RATES[rates]
    n = prod(spatial_lengths(grid, taps, boundary))
    direct = batch * channels * prod(grid) * (element + tap * prod(taps))
    return "fft" if (batch + 0.5) * channels * n * log2(max(n, 2)) * transform < direct else "direct"
