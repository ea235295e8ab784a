import numpy as np
import pytest

from cssm.core.errors import UsageError
from cssm.data import rng


def test_splitmix64_known_values():
    """The values of the reference C program for seed 1234567 (Vigna, prng.di.unimi.it/splitmix64.c)."""
    state = np.array([1234567], np.uint64)
    got = [int(rng.next_u64(state)) for _ in range(5)]
    assert got == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_streams_differ_by_seed_split_and_index():
    keys = [rng.stream_key(seed, split) for seed in range(20) for split in rng.SPLITS]
    firsts = {int(rng.next_u64(rng.stream(key, index))) for key in keys for index in range(20)}
    assert len(firsts) == len(keys) * 20


def test_uniform_and_integer_moments():
    state = rng.stream(rng.stream_key(0, "train"), 0)
    values = np.array([rng.uniform(state) for _ in range(4000)])
    assert values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 4 / np.sqrt(12 * 4000)
    counts = np.bincount([rng.integer(state, 7) for _ in range(7000)], minlength=7)
    assert counts.size == 7 and np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


@pytest.mark.parametrize(
    ("seed", "split", "named"), [(0, "valid", "valid"), (-1, "train", "-1"), (2**63, "val", "seed")]
)
def test_bad_keys_are_usage_errors(seed, split, named):
    with pytest.raises(UsageError, match=named):
        rng.stream_key(seed, split)
