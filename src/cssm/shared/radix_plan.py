"""How the compiled transforms of `kernels/fft_cpu.py` go about n numbers: tables in NumPy, without numba."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

LARGEST_PRIME = 127  # above it Bluestein's algorithm would win, and libraries have it
# Vectors hold 64 bytes of batch rows x channels. Times as fast as the path without the compiled kernel, forward and
# backward of all frames, (1, 16, N, N, C) float32, 2 cores with AVX-512; the last frame alone is more favourable:
#   C          1     2     4     6     8    12    17    24
#   N = 16   .24   .32   .73   .71  1.04  1.35  1.72  2.02
#   N = 64   .20   .33   .57   .78  1.12  1.33  2.13  2.66
FULL = 0.5  # of the first vector, from which on the compiled kernel is picked


class Plan(NamedTuple):
    """How to transform n numbers."""

    stages: np.ndarray
    """(stages, 2): the radix, and where the roots of a prime one begin in `rotations`."""
    rotations: np.ndarray
    order: np.ndarray
    """The frequency that stands at every place."""
    place: np.ndarray
    """The place of every frequency."""


def factors(n: int) -> list[int]:
    """Radices whose product is n: eights and fours first.

    >>> factors(96), factors(60), factors(97), factors(16)
    ([8, 4, 3], [4, 3, 5], [97], [4, 4])
    """
    found = []
    while n % 8 == 0 and n != 16:
        found.append(8)
        n //= 8
    for p in (4, 2, 3, 5):
        while n % p == 0:
            found.append(p)
            n //= p
    p = 7
    while n > 1:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 2
    return found


def transformable(n: int) -> bool:
    """Whether `plan` has radices for n.

    >>> transformable(97), transformable(2 * 131)
    (True, False)
    """
    return max(factors(n), default=1) <= LARGEST_PRIME


def sparse(pairs: int, double: bool) -> str | None:
    """Why the compiled kernel does not pay for so many pairs of batch row and channel; None where it does.

    >>> sparse(3, False)
    'batch rows and channels, 3 in all, fill less than half of a vector of 16'
    >>> sparse(8, False), sparse(4, True)
    (None, None)
    """
    lanes = 8 if double else 16
    fill = f"batch rows and channels, {pairs} in all, fill less than half of a vector of {lanes}"
    return fill if pairs < FULL * lanes else None


@lru_cache(64)
def plan(n: int, double: bool) -> Plan:
    """The plan of n numbers, in float64 or float32."""
    radices, rotations, size = factors(n), [], n
    place = np.zeros(n, np.int64)
    rest = np.arange(n)
    for radix in radices:
        size //= radix
        rotations.append(np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(radix)) / (size * radix)).ravel())
        place += rest % radix * size
        rest //= radix
    roots, end = {}, sum(map(len, rotations))
    for radix in {r for r in radices if r > 8}:
        roots[radix] = end
        rotations.append(np.exp(-2j * np.pi * np.arange(radix) / radix))
        end += radix
    stages = np.array([[radix, roots.get(radix, 0)] for radix in radices], np.int32).reshape(-1, 2)
    table = np.concatenate([*rotations, np.ones(1)]).astype(np.complex128 if double else np.complex64)
    return Plan(stages, table, np.argsort(place).astype(np.int32), place.astype(np.int32))


def work_size(*sides: int) -> int:
    """Numbers of scratch that transforms of these lengths need: twice the half of their largest prime."""
    return 2 * (max((p for n in sides for p in factors(n)), default=1) // 2) + 2
