"""The S4 kernel from its generating function at roots of unity: Cauchy sums, Woodbury's identity, one inverse FFT.

Evaluated on the circle |q| = e^(-1/L): no pole is nearer to it than 1 / L, so undamped eigenvalues (LegT, Fourier) do
no harm. The pencil (1 - q) - (1 + q)/2 A needs no division by 1 + q, so q = -1 is a point like any other.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cssm.core.typing import Complex, Float

from .dplr import Dplr, advance, output_rows, plan, to_complex

DAMPING = 1.0
ENTRIES = 2**22  # of the Cauchy matrix (H, n, frequencies) held at a time: 32 MiB in complex64


def kernel(system: Dplr, length: int) -> Float[Any, "c h l"]:
    """K (C, H, L), exactly the first L taps: C (I - R^L A_bar^L) takes away those that would alias."""
    exponents = -DAMPING / length - 2j * np.pi * np.arange(length // 2 + 1) / length
    nodes = np.stack([-np.expm1(exponents), (1 + np.exp(exponents)) / 2])  # 1 - q, (1 + q) / 2
    heads, half = system.diagonal.shape
    chunks = -(-heads * half * nodes.shape[1] // ENTRIES)
    nodes = np.pad(nodes, ((0, 0), (0, -nodes.shape[1] % chunks)), mode="edge").reshape(2, chunks, -1)
    nodes = jnp.asarray(np.moveaxis(nodes, 1, 0), system.diagonal.dtype)
    system = system._replace(C=_truncated_output(system, length))
    values = lax.map(jax.checkpoint(lambda pair: _generating_function(system, *pair)), nodes)
    spectrum = jnp.moveaxis(values, 0, -2).reshape(*values.shape[1:3], -1)[..., : length // 2 + 1]
    undamp = np.exp(DAMPING * np.arange(length) / length)
    return jnp.fft.irfft(spectrum, length) * jnp.asarray(undamp, spectrum.real.dtype)


def _truncated_output(system: Dplr, length: int):
    """C (I - R^L A_bar^L)."""
    matrices = [jnp.swapaxes(matrix, -1, -2) for matrix in plan(system, length)]
    rows = output_rows(system, [], 1)[:, :, 0]
    rows = rows - math.exp(-DAMPING) * advance(rows, matrices, length)
    return to_complex(rows).conj() / 2


def _generating_function(system: Dplr, difference, mean):
    """C (s - m (diagonal - p p^*))^-1 drive, (C, H, F), at difference s = 1 - q and mean m = (1 + q) / 2, both (F,)."""
    p, channels, rank = system.low_rank, system.C.shape[0], system.low_rank.shape[0]
    rows = jnp.concatenate([system.C, p.conj()])
    columns = jnp.concatenate([system.drive[None], p])
    table = cauchy_sums(rows[:, None] * columns, system.diagonal, difference, mean)  # c+r 1+r h f
    identity = jnp.eye(rank, rank + 1, 1, dtype=table.dtype)[..., None, None]
    table = jnp.concatenate([table[:channels], mean * table[channels:] + identity])
    for k in reversed(range(rank)):  # the pivots have positive real part: no exchange of rows is needed
        above, row = table[: channels + k], table[channels + k]
        table = above[:, : k + 1] - above[:, k + 1 : k + 2] * (row[: k + 1] / row[k + 1])
    return table[:, 0]


def cauchy_sums(
    weights: Complex[Any, "*lead h n"],
    diagonal: Complex[Any, "h n"],
    difference: Complex[Any, "f"],
    mean: Complex[Any, "f"],
) -> Complex[Any, "*lead h f"]:
    """sum_n w / (s - m d) + conj(w) / (s - m conj(d)) for w (..., H, n), d (H, n), s and m (F,): (..., H, F).

    = s sum_n 2 Re(w) E - m sum_n 2 Re(w conj d) E with E = 1 / ((s - m d) (s - m conj d)): products with real factors.
    """
    d = diagonal[..., None]
    inverse = 1 / ((difference - mean * d) * (difference - mean * d.conj()))  # h n f
    factors = jnp.stack([2 * weights.real, 2 * (weights * diagonal.conj()).real])
    product = partial(jnp.einsum, "...hn,hnf->...hf", precision=lax.Precision.HIGHEST)
    sums = lax.complex(product(factors, inverse.real), product(factors, inverse.imag))
    return difference * sums[0] - mean * sums[1]
