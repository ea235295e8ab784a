"""What one core can compute: multiply-adds of lanes in registers, timed."""

import time
from functools import cache
from typing import no_type_check

import numpy as np

from cssm.kernels.lanes import lane_count, load_real, store_real
from cssm.shared.compiled import compiled


@compiled
@no_type_check
def _multiply_add(z, times):
    n = lane_count(z)
    a, b, c, d = load_real(z, 0), load_real(z, n), load_real(z, 2 * n), load_real(z, 3 * n)
    e, f, g, h = load_real(z, 4 * n), load_real(z, 5 * n), load_real(z, 6 * n), load_real(z, 7 * n)
    gain = load_real(z, 8 * n)
    for _ in range(times):
        a, b, c, d = a * gain + a, b * gain + b, c * gain + c, d * gain + d
        e, f, g, h = e * gain + e, f * gain + f, g * gain + g, h * gain + h
    store_real(z, 0, a + b + c + d + e + f + g + h)


@cache
def peak_flops() -> float:
    """Float32 additions and multiplications per second of one core, best of ten.

    >>> peak_flops() > 1e9
    True
    """
    z, times, seconds = np.zeros(9 * 16, np.float32), 1 << 18, []
    _multiply_add(z, 1)
    for _ in range(10):
        start = time.perf_counter()
        _multiply_add(z, times)
        seconds.append(time.perf_counter() - start)
    return times * 8 * 2 * 16 / min(seconds)
