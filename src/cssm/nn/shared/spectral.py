"""What mixers whose state is a spatial spectrum share: their kernel, their options, the empty pixels at the border."""

import jax
import jax.numpy as jnp

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Grid

from ..parameter import RecurrenceParam


def checked_margin(name: str, kernel_size: int, rho: float, boundary: str, margin: int | None) -> int:
    """The number of empty pixels to pad the grid with, or a UsageError that names the option that does not fit."""
    if kernel_size < 1:
        raise UsageError(f"{name}: kernel_size is {kernel_size}, expected at least one tap")
    if boundary not in ("circular", "zero"):
        raise UsageError(f"{name}: unknown boundary {boundary!r}, use circular or zero")
    if margin is not None and boundary == "circular":
        raise UsageError(f"{name}: margin is for boundary='zero'; a circular boundary has none")
    if margin is not None and margin < 0:
        raise UsageError(f"{name}: margin is {margin}, expected 0 or more empty pixels")
    if not 0 < rho <= 1:
        raise UsageError(f"{name}: rho is {rho}, expected a bound 0 < rho <= 1 on the gain")
    return 0 if boundary == "circular" else kernel_size if margin is None else margin


def initial_kernel(key, channels: int, size: int, scale: float, memory: float) -> RecurrenceParam:
    """(C, K, K): N(0, scale^2) taps, and `memory` times the identity."""
    kernel = scale * jax.random.normal(key, (channels, size, size))
    return RecurrenceParam(kernel.at[:, size // 2, size // 2].add(memory))


def widen(grid: Grid, margin: int) -> Grid:
    return grid[0] + margin, grid[1] + margin


def pad(x: Float[jax.Array, "*lead h w c"], margin: int):
    """margin empty rows below and columns to the right."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(0, margin), (0, margin), (0, 0)])


def crop(y, x):
    """The pixels of y that x has."""
    return y[..., : x.shape[-3], : x.shape[-2], :]
