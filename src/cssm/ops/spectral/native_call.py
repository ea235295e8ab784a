"""How JAX programs call the compiled spectral kernels, and whether they can."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np

from cssm.shared.radix_plan import LARGEST_PRIME, plan, transformable, work_size

from ..xla_cpu import TARGET, unavailable

_off: ContextVar[bool] = ContextVar("without_compiled_kernels", default=False)


@contextmanager
def without_compiled_kernels() -> Iterator[None]:
    """What is traced inside takes XLA's own transforms: its counts of operations do not see into compiled kernels."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def why_not(height: int, width: int) -> str | None:
    """Why the compiled kernels are not for frames of H x W pixels; None where they are.

    >>> why_not(8, 131)
    'the width 131 has a prime factor above 127'
    """
    if _off.get():
        return "compiled kernels are turned off here"
    if jax.default_backend() != "cpu":
        return f"it is compiled for CPUs, not for {jax.default_backend()}"
    for name, side in (("height", height), ("width", width)):
        if not transformable(side):
            return f"the {name} {side} has a prime factor above {LARGEST_PRIME}"
    return unavailable()


def why_not_picked(height: int, width: int) -> str | None:
    """`why_not`, or that XLA would not split the kernels over devices."""
    reason = why_not(height, width)
    if reason is None and jax.device_count() > 1:
        return f"XLA does not split it over the {jax.device_count()} devices"
    return reason


def call(kernel: int, flags: tuple, operands: list, more: list, grid: tuple[int, int], results: list) -> Any:
    """The results of a kernel of `kernels/spectral_xla.py`, for frames of grid (H, W)."""
    from cssm.kernels import spectral_xla

    double = operands[3].dtype == np.complex128
    spectral_xla.enter(kernel, bool(double))
    along, across = plan(grid[0], bool(double)), plan(grid[1], bool(double))
    numbers = np.array([kernel, *flags, work_size(*grid)], np.int32)
    tables = [across.stages, across.rotations, across.place, along.stages, along.rotations, along.place]
    return jax.ffi.ffi_call(TARGET, results)(numbers, *operands, *tables, *more)
