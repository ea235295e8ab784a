"""The spectral recurrence without the FFT: s_t = k * s_{t-1} + x_t with the kernel itself, on the circular grid.

A convolution is a sum of shifted images: K^2 products per pixel, and the image padded by K - 1, never the kernel padded
to the image. One frame at a time the kernel stays small. In parallel it cannot: k^n has n (K - 1) + 1 taps, the whole
grid after a few doublings, and is then applied by matrix products.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cssm.core.typing import Grid


class Taps(NamedTuple):
    """Kernels (C, Kh, Kw) whose tap `origin` lies on pixel (0, 0)."""

    weights: jax.Array
    origin: tuple[int, int]


def folded(kernel, grid: Grid) -> Taps:
    """The kernel (C, K, K), origin K // 2; along an axis longer than the grid it is summed modulo the grid."""
    origin = []
    for axis, size in enumerate(grid, 1):
        taps = kernel.shape[axis]
        if taps > size:
            kernel = _placed(kernel, axis, taps // 2, size)
        origin.append(0 if taps > size else taps // 2)
    return Taps(kernel, (origin[0], origin[1]))


def _placed(kernel, axis: int, origin: int, size: int, start: int = 0):
    """The taps along `axis` summed onto `size` points, the origin on point `start`."""
    position = (jnp.arange(kernel.shape[axis]) - origin + start) % size
    shape = (*kernel.shape[:axis], size, *kernel.shape[axis + 1 :])
    index = (slice(None),) * axis + (position,)
    return jnp.zeros(shape, kernel.dtype).at[index].add(kernel)


def convolve(x, taps: Taps) -> Any:
    """Circular convolution of (..., H, W, C) with (C, Kh, Kw), no tap further than one grid away.

    A kernel as wide as the grid goes through matrix products, a narrow one is a sum of shifts in O(1) extra memory.

    >>> delta = jnp.zeros((2, 3, 3)).at[:, 1, 1].set(1.0)
    >>> bool((convolve(jnp.ones((4, 4, 2)), folded(delta, (4, 4))) == 1).all())
    True
    """
    if taps.origin[1] == 0 and taps.weights.shape[2] == x.shape[-2]:
        return _by_matrices(x, taps.weights, taps.origin[0])
    return _convolve(x, taps.weights, taps.origin)


def _by_matrices(x, kernel, origin):
    """For every row of the kernel a circulant matrix over columns, per channel: 8 times faster than shifts on CPU."""
    (height, width, channels), rows = x.shape[-3:], kernel.shape[1]
    shift = (np.arange(width) - np.arange(width)[:, None]) % width  # p w
    matrices = jnp.moveaxis(kernel[:, ::-1, shift], 1, 0)  # i c p w, the last row first
    frames = x.reshape(-1, *x.shape[-3:]).transpose(3, 1, 0, 2)  # c h n p
    padded = jnp.pad(frames, [(0, 0), (rows - 1 - origin, origin), (0, 0), (0, 0)], mode="wrap")

    @jax.checkpoint
    def row(total, now):
        i, matrix = now
        band = lax.dynamic_slice_in_dim(padded, i, height, 1).reshape(channels, -1, width)
        return total + jnp.matmul(band, matrix, precision="highest"), None

    start = jnp.zeros((channels, frames.shape[1] * frames.shape[2], width), jnp.result_type(x, kernel))
    total, _ = lax.scan(row, start, (jnp.arange(rows), matrices))
    return total.reshape(frames.shape).transpose(2, 1, 3, 0).reshape(x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, origin):
    return _sum_of_shifts(x, kernel, origin)


def _forward(x, kernel, origin):
    return _sum_of_shifts(x, kernel, origin), (x, kernel)


def _backward(origin, saved, g):
    """dx convolves with the kernel turned by half a turn; dk sums g against every shift of x."""
    x, kernel = saved
    turned = (kernel.shape[1] - 1 - origin[0], kernel.shape[2] - 1 - origin[1])
    return _sum_of_shifts(g, kernel[:, ::-1, ::-1], turned), _inner_with_shifts(g, x, kernel.shape, origin)


_convolve.defvjp(_forward, _backward)


def _wrapped(x, taps, origin):
    """x with the rows and columns that the taps reach around the edges."""
    around = [(k - 1 - o, o) for k, o in zip(taps, origin, strict=True)]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + around + [(0, 0)], mode="wrap")


def _sum_of_shifts(x, kernel, origin):
    (height, width), (rows, columns) = x.shape[-3:-1], kernel.shape[1:]
    padded, flipped = _wrapped(x, (rows, columns), origin), kernel[:, ::-1, ::-1]

    def row(i, total):
        band = lax.dynamic_slice_in_dim(padded, i, height, x.ndim - 3)
        weights = lax.dynamic_index_in_dim(flipped, i, 1, keepdims=False)
        for j in range(columns):
            total = total + band[..., j : j + width, :] * weights[:, j]
        return total

    return lax.fori_loop(0, rows, row, jnp.zeros_like(x, jnp.result_type(x, kernel)))


def _inner_with_shifts(g, x, shape, origin):
    rows, columns = shape[1:]
    padded, axes = _wrapped(x, (rows, columns), origin), tuple(range(x.ndim - 1))

    def one_shift(n):
        start = (*(0 for _ in x.shape[:-3]), n // columns, n % columns, 0)
        return (g * lax.dynamic_slice(padded, start, x.shape)).sum(axes)

    return lax.map(one_shift, jnp.arange(rows * columns)[::-1]).T.reshape(shape)


def in_space_sequential(x, kernel, state=None, reset=None):
    """s_t = k * s_{t-1} + x_t, one frame after another.

    Args: x (B, T, H, W, C); kernel (C, K, K), origin at the middle tap; state (B, H, W, C), zeros when omitted;
      reset (B, T) bool forgets all frames before that one.
    Returns: s, x's shape.

    >>> in_space_sequential(jnp.ones((1, 3, 4, 4, 1)), jnp.full((1, 1, 1), 0.5))[0, :, 0, 0, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    taps = folded(kernel, x.shape[2:4])

    def step(state, inputs):
        frame, restart = inputs
        kept = state if restart is None else jnp.where(restart[:, None, None, None], 0, state)
        state = convolve(kept, taps) + frame
        return state, state

    start = jnp.zeros_like(x[:, 0]) if state is None else state
    inputs = jnp.moveaxis(x, 1, 0), None if reset is None else reset.T
    return jnp.moveaxis(lax.scan(step, start, inputs)[1], 0, 1)


def in_space_parallel(x, kernel, state=None):
    """`in_space_sequential` without resets by doubling: s <- s + k^n * (s shifted by n frames), n = 1, 2, 4, ..."""
    taps, shift = folded(kernel, x.shape[2:4]), 1
    if state is not None:
        x = x.at[:, 0].add(convolve(state, taps))
    while shift < x.shape[1]:
        earlier = jnp.pad(x[:, :-shift], [(0, 0), (shift, 0)] + [(0, 0)] * 3)
        x = x + convolve(earlier, taps)
        shift *= 2
        taps = squared(taps, x.shape[2:4]) if shift < x.shape[1] else taps
    return x


def squared(taps: Taps, grid: Grid) -> Taps:
    """k * k: 2 K - 1 taps, or the whole grid once that is smaller."""
    wide = [min(2 * k - 1, size) for k, size in zip(taps.weights.shape[1:], grid, strict=True)]
    start = [0 if n == size else 2 * o for n, size, o in zip(wide, grid, taps.origin, strict=True)]
    field = taps.weights
    for axis in (0, 1):
        field = _placed(field, axis + 1, taps.origin[axis], wide[axis], start[axis])
    product = jnp.moveaxis(convolve(jnp.moveaxis(field, 0, -1), taps), -1, 0)
    return Taps(product, (start[0], start[1]))
