"""Separable global convolution within a frame, in all four direction quadrants: two matrix products per channel.

y[p, q] = sum over directions d, e in {+1, -1} and i, j >= 0 of a_d[i] b_e[j] x[p - d i, q - e j], zeros outside the
frame. The four quadrants are the product of two-sided kernels, a = a_+ + a_- over rows and b = b_+ + b_- over columns.
"""

import jax.numpy as jnp
from jax import lax

from cssm.core.errors import ShapeError
from cssm.ops.s4.unrolled import two_sided

from .wide import wide


def convolve(x, rows, columns):
    """x (B, T, H, W, C) by rows (2, C, H) and columns (2, C, W): causal, then anticausal taps. float32.

    The work per value is H + W products: Toeplitz matrices, no FFT, no padding.
    """
    if rows.shape[1:] != (x.shape[-1], x.shape[2]) or columns.shape[1:] != (x.shape[-1], x.shape[3]):
        raise ShapeError(f"kernels {rows.shape}, {columns.shape} do not fit frames of shape {x.shape[2:]}")
    y = wide(x)
    y = _einsum("cpq,bqwc->bpwc", two_sided(*rows), y.reshape(-1, *x.shape[2:]))
    return _einsum("cpq,bhqc->bhpc", two_sided(*columns), y).reshape(x.shape)


def split_axes(taps, grid):
    """Taps (2, 2C, L) of heads [rows, columns] -> rows (2, C, H) and columns (2, C, W)."""
    rows, columns = jnp.split(taps, 2, 1)
    return rows[..., : grid[0]], columns[..., : grid[1]]


def _einsum(equation: str, *arrays):
    return jnp.einsum(equation, *arrays, precision=lax.Precision.HIGHEST)
