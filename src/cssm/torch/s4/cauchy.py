"""The S4 kernel by Cauchy sums in PyTorch: the twin of cssm.ops.s4.cauchy; the maths is in cssm/ops/s4/README.md."""

import math

import numpy as np
import torch
from torch import Tensor

from ..transforms import checkpointed
from .dplr import Dplr, advance, output_rows, plan, to_complex

DAMPING = 1.0
ENTRIES = 2**22  # of the Cauchy matrix (H, n, frequencies) held at a time


def kernel(system: Dplr, length: int) -> Tensor:
    """K (C, H, L), exactly the first L taps."""
    exponents = -DAMPING / length - 2j * np.pi * np.arange(length // 2 + 1) / length
    nodes = torch.from_numpy(np.stack([-np.expm1(exponents), (1 + np.exp(exponents)) / 2]))  # 1 - q, (1 + q) / 2
    nodes = nodes.to(system.diagonal)
    chunks = -(-system.diagonal.numel() * nodes.shape[1] // ENTRIES)
    system = system._replace(C=_truncated_output(system, length))
    if chunks == 1:
        spectrum = _generating_function(system, *nodes)
    else:
        pieces = [checkpointed(_generating_function, system, *part) for part in nodes.chunk(chunks, 1)]
        spectrum = torch.cat(pieces, -1)
    undamp = np.exp(DAMPING * np.arange(length) / length)
    return torch.fft.irfft(spectrum, length) * torch.from_numpy(undamp).to(system.inner)


def _truncated_output(system: Dplr, length: int) -> Tensor:
    """C (I - R^L A_bar^L)."""
    rows = output_rows(system, [], 1)[:, :, 0]
    rows = rows - math.exp(-DAMPING) * advance(rows, [matrix.mT for matrix in plan(system, length)], length)
    return to_complex(rows).conj() / 2


def _generating_function(system: Dplr, difference: Tensor, mean: Tensor) -> Tensor:
    """C (s - m (diagonal - p p^*))^-1 drive, (C, H, F), at difference s = 1 - q and mean m = (1 + q) / 2, both (F,)."""
    p, channels, rank = system.low_rank, len(system.C), len(system.low_rank)
    rows, columns = torch.cat([system.C, p.conj()]), torch.cat([system.drive[None], p])
    table = cauchy_sums(rows[:, None] * columns, system.diagonal, difference, mean)  # c+r 1+r h f
    identity = torch.eye(rank, rank + 1, dtype=table.dtype, device=table.device).roll(1, 1)[..., None, None]
    table = torch.cat([table[:channels], mean * table[channels:] + identity])
    for k in reversed(range(rank)):  # the pivots have positive real part: no exchange of rows is needed
        above, row = table[: channels + k], table[channels + k]
        table = above[:, : k + 1] - above[:, k + 1 : k + 2] * (row[: k + 1] / row[k + 1])
    return table[:, 0]


def cauchy_sums(weights: Tensor, diagonal: Tensor, difference: Tensor, mean: Tensor) -> Tensor:
    """sum_n w / (s - m d) + conj(w) / (s - m conj(d)) for w (..., H, n), d (H, n), s and m (F,): (..., H, F)."""
    d = diagonal[..., None]
    inverse = 1 / ((difference - mean * d) * (difference - mean * d.conj()))  # h n f
    factors = torch.stack([2 * weights.real, 2 * (weights * diagonal.conj()).real])
    both = torch.cat([inverse.real, inverse.imag], -1)
    sums = to_complex(torch.einsum("...hn,hnf->...hf", factors, both))
    return difference * sums[0] - mean * sums[1]
