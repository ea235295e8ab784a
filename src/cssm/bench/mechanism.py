"""The mechanism: the same recurrence through the FFT, and in space, one frame at a time or in parallel.

Fair versions: the spatial ones convolve with the 11 x 11 kernel itself, never with a kernel padded to the image, and as
a sum of shifted images (here twice as fast as XLA's grouped convolution). In parallel the kernel cannot stay small:
K^n has n (11 - 1) + 1 taps, the whole grid after two doublings. Source: 003 Methods, section 1.1.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from cssm.ops import kernel_spectrum, spectral_scan

from .frameworks import forward
from .harness import Comparison
from .registry import OPS

SHAPE, TAPS = (1, 64, 32, 32, 32), 11


def convolve(x, kernel, origin: int):
    """Circular convolution of (..., H, W, C) with (C, K, K) as a sum of shifts; tap `origin` lies on pixel (0, 0)."""
    height, width = x.shape[-3:-1]
    taps = kernel.shape[-1]
    around = [(taps - 1 - origin, origin)] * 2
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + around + [(0, 0)], mode="wrap")
    flipped = kernel[:, ::-1, ::-1]

    def row(i, total):
        band = lax.dynamic_slice_in_dim(padded, i, height, x.ndim - 3)
        weights = lax.dynamic_index_in_dim(flipped, i, 1, keepdims=False)
        for j in range(taps):
            total = total + band[..., j : j + width, :] * weights[:, j]
        return total

    return lax.fori_loop(0, taps, row, jnp.zeros_like(x))


def in_space_sequential(x, kernel):
    """s_t = k * s_{t-1} + x_t, one frame after another."""

    def step(state, frame):
        state = convolve(state, kernel, TAPS // 2) + frame
        return state, state

    return jnp.moveaxis(lax.scan(step, jnp.zeros_like(x[:, 0]), jnp.moveaxis(x, 1, 0))[1], 0, 1)


def in_space_parallel(x, kernel):
    """The same by doubling, s <- s + k^n * (s shifted by n frames): the kernel grows with n."""
    shift, steps, origin = 1, x.shape[1], TAPS // 2
    while shift < steps:
        earlier = jnp.pad(x[:, :-shift], [(0, 0), (shift, 0)] + [(0, 0)] * 3)
        x = x + convolve(earlier, kernel, origin)
        kernel, origin = _squared(kernel, origin, x.shape[2])
        shift *= 2
    return x


def _squared(kernel, origin: int, grid: int):
    """k * k; as wide as the grid at most, where it is folded with its origin on pixel (0, 0)."""
    taps = kernel.shape[-1]
    wide = min(2 * taps - 1, grid)
    position = (jnp.arange(taps) - origin) % wide
    field = jnp.zeros((wide, wide, kernel.shape[0])).at[position[:, None], position].add(jnp.moveaxis(kernel, 0, -1))
    squared = jnp.moveaxis(convolve(field, kernel, origin), -1, 0)
    if wide == grid:
        return squared, 0
    return jnp.roll(squared, (wide // 2, wide // 2), (1, 2)), wide // 2


@OPS.register("mechanism")
def mechanism() -> Iterator[Comparison]:
    """The recurrence through the FFT against the same one in space, sequential and parallel: forward, same kernel."""
    x = jax.random.normal(jax.random.key(0), SHAPE)
    kernel = jax.random.normal(jax.random.key(1), (SHAPE[-1], TAPS, TAPS))
    kernel = 0.9 * kernel / jnp.abs(kernel).sum((1, 2), keepdims=True)
    contenders = {
        "through the FFT": lambda: forward(_spectral, x, kernel),
        "in space, sequential": lambda: forward(in_space_sequential, x, kernel),
        "in space, parallel": lambda: forward(in_space_parallel, x, kernel),
    }
    yield Comparison(name=f"mechanism {SHAPE}, kernel {TAPS} x {TAPS}, forward", contenders=contenders)


def _spectral(x, kernel):
    return spectral_scan(x, kernel_spectrum(kernel, x.shape[2:4]))[1]
