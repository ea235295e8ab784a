"""The transforms of lanes against NumPy in float64, for every kind of radix, and lanes that do not mix."""

import numpy as np
import pytest

from cssm.kernels.fft_cpu import backward, forward
from cssm.shared.radix_plan import factors, plan, transformable, work_size

LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 25, 28, 30, 32, 49, 60, 61, 64, 77, 96, 97, 121, 127, 128, 224]


def numbers(n, double, seed=0):
    lanes = 8 if double else 16
    z = np.random.default_rng(seed).normal(size=(n, 2, lanes)).astype(np.float64 if double else np.float32)
    return z, z[:, 0].astype(np.float64) + 1j * z[:, 1]


def transformed(z, n, double, both=False):
    flat, found = z.reshape(-1).copy(), plan(n, double)
    work = np.zeros(work_size(n) * flat.size // n, flat.dtype)
    forward(flat, 0, n, found.stages, found.rotations, work)
    if both:
        backward(flat, 0, n, found.stages, found.rotations, work)
    out = flat.reshape(z.shape)
    return out[:, 0] + 1j * out[:, 1]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("n", LENGTHS)
def test_equals_numpy_and_back(n, double):
    z, value = numbers(n, double)
    expected, tolerance = np.fft.fft(value, axis=0), 1e-14 if double else 5e-7
    found = plan(n, double)
    assert np.abs(transformed(z, n, double) - expected[found.order]).max() < tolerance * np.abs(expected).max()
    assert (found.order[found.place] == np.arange(n)).all()
    assert np.abs(transformed(z, n, double, both=True) / n - value).max() < 4 * tolerance * np.abs(value).max()


@pytest.mark.parametrize("n", [12, 32, 97])
def test_lanes_do_not_mix(n):
    z, _ = numbers(n, False)
    poisoned = z.copy()
    poisoned[:, :, 3] = np.nan
    rest = np.arange(16) != 3
    assert np.array_equal(transformed(z, n, False)[:, rest], transformed(poisoned, n, False)[:, rest])


def test_the_factors_are_those_of_the_number():
    for n in range(1, 500):
        assert np.prod(factors(n), dtype=int) == n
    assert [n for n in range(2, 140) if not transformable(n)] == [131, 137, 139]
