"""Counter-based random numbers for the compiled generators: one SplitMix64 stream per (seed, split, index).

A sample is a pure function of those three numbers, so it does not depend on batch size, thread count or the
order of access. SplitMix64 is from Steele, Lea & Flood, "Fast splittable pseudorandom number generators"
(OOPSLA 2014); its output function also mixes the key. The state is a uint64 array of one element, changed
in place.
"""

import math
from typing import no_type_check

import numpy as np

from cssm.core.errors import UsageError
from cssm.shared.compiled import compiled

SPLITS = ("train", "val", "test")
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


@compiled
@no_type_check
def mix(z):
    """The SplitMix64 output function: a bijection of uint64."""
    z = (z ^ (z >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    return z ^ (z >> np.uint64(31))


@compiled
@no_type_check
def stream(key, index):
    """State of sample `index` under `key` (from `stream_key`)."""
    state = np.empty(1, np.uint64)
    state[0] = mix(key ^ mix(np.uint64(index) + GOLDEN))
    return state


@compiled
@no_type_check
def next_u64(state):
    """The next 64 random bits."""
    state[0] += GOLDEN
    return mix(state[0])


@compiled
@no_type_check
def uniform(state):
    """A float64 uniform on [0, 1), with 53 random bits."""
    return np.float64(next_u64(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
@no_type_check
def integer(state, n):
    """An integer uniform on 0..n-1; n is far below 2**32, so the bias is below 2**-32."""
    return np.int64(((next_u64(state) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@compiled
@no_type_check
def normal(state):
    """A standard normal number (Box & Muller, 1958)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(state)))
    return radius * math.cos(2.0 * math.pi * uniform(state))


def draws_of(seed: int, positions: np.ndarray) -> np.ndarray:
    """Random bits (b,) uint64 for the samples at `positions` (b,) uint64 of a stream of that seed.

    >>> draws_of(0, np.arange(3, dtype=np.uint64)).dtype
    dtype('uint64')
    """
    mixed = mix.py_func  # of arrays, which wrap around without a warning
    key = mixed(mixed(np.array([seed], np.uint64) + GOLDEN) + GOLDEN)  # twice: seed and position may not change places
    return mixed(key ^ mixed(positions + GOLDEN))


def stream_key(seed: int, split: str) -> np.uint64:
    """The uint64 key of a split: every (seed, split) pair has its own streams.

    Raises UsageError for an unknown split or a seed outside 0..2**63-1.

    >>> bool(stream_key(0, "train") != stream_key(0, "val"))
    True
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed {seed} is outside 0..2**63-1: choose a non-negative seed")
    with np.errstate(over="ignore"):
        return np.uint64(mix(np.uint64(mix(np.uint64(seed))) + np.uint64(SPLITS.index(split) + 1) * GOLDEN))
