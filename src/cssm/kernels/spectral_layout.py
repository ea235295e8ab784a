"""The real coordinates in which the fused spectral kernel works. NumPy only.

A frame of H x W reals has H W real Fourier coefficients. Per axis of N there are (N + 1) // 2 slots, each with a cosine
and a sine; slot 0 holds the constant and, for even N, the alternating wave. Slot (i, j) of a frame then has four
numbers cc, cs, sc, ss (height, width), and a pair of complex ones, each multiplied by one entry of K per step:

    i, j > 0    P = cc - ss - i (cs + sc) ~ X[i, j]     Q = cc + ss + i (sc - cs) ~ X[-i, j]
    i = 0 < j   P = cc - i cs             ~ X[0, j]     Q = sc - i ss             ~ X[H/2, j]
    j = 0 < i   P = cc - i sc             ~ X[i, 0]     Q = cs - i ss             ~ X[i, W/2]
    i = j = 0   cc, -cs, sc, -ss ~ X[0, 0], -X[0, W/2], X[H/2, 0], -X[H/2, W/2]: four real numbers

with ~ for equality up to the scale of an orthonormal basis. A packed array is (..., 4, columns, rows): the parts Re P,
Im P, Re Q, Im Q, the slots j of the width, the slots i of the height.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

LARGEST = 64  # pixels along an axis


class Gather(NamedTuple):
    """out[..., n] = sum_k scale[k, n] * source[..., index[k, n]]."""

    index: np.ndarray
    scale: np.ndarray

    def transposed(self, size: int) -> "Gather":
        """The transposed map, to `size` numbers: the gradient of this one."""
        which, targets = np.nonzero(self.scale)
        pairs, place = np.unique(self.index[which, targets] * self.scale.shape[1] + targets, return_inverse=True)
        total = np.bincount(place, self.scale[which, targets])
        sources, targets = np.divmod(pairs, self.scale.shape[1])  # sorted by source: rank counts within one source
        rank = np.arange(len(sources)) - np.searchsorted(sources, sources)
        index, scale = np.zeros((rank.max() + 1, size), np.int32), np.zeros((rank.max() + 1, size), np.float32)
        index[rank, sources], scale[rank, sources] = targets, total
        return Gather(index, scale)


def slots(size: int) -> int:
    """Slots of an axis, padded to what the kernel's matrix products take: 16 up to 32 pixels, else 32."""
    return 16 if size <= 32 else 32


def waves(size: int) -> np.ndarray:
    """(2, slots, 2 slots): orthonormal cosines and sines; zero beyond the axis."""
    table = np.zeros((2, slots(size), 2 * slots(size)))
    turns = np.outer(np.arange((size + 1) // 2), np.arange(size)) % size * (2 * np.pi / size)
    table[:, : len(turns), :size] = np.sqrt(2 / size) * np.stack([np.cos(turns), np.sin(turns)])
    table[0, 0, :size] = np.sqrt(1 / size)
    table[1, 0, :size] = (-1.0) ** np.arange(size) / np.sqrt(size) if size % 2 == 0 else 0
    return table


@dataclass(frozen=True)
class Layout:
    """Between half spectra (H, Wf, 2), flattened, and packed arrays (4, columns, rows), flattened."""

    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return 4, slots(self.width), slots(self.height)

    @cached_property
    def basis(self) -> np.ndarray:
        """The waves of the height, cosine and sine in turn, then of the width, 8 cosines and 8 sines in turn: flat."""
        rows, columns = waves(self.height), waves(self.width)
        columns = columns.reshape(2, -1, 8, columns.shape[-1]).swapaxes(0, 1)
        return np.concatenate([rows.swapaxes(0, 1).ravel(), columns.ravel()]).astype(np.float32)

    @cached_property
    def corner(self) -> np.ndarray:
        """(columns, rows), float32: 1 at slot (0, 0), where the four parts are real numbers of their own."""
        mask = np.zeros(self.shape[1:], np.float32)
        mask[0, 0] = 1
        return mask

    @cached_property
    def weight(self) -> np.ndarray:
        """(columns, rows), float32: 2 where P and Q are sums of two coefficients, 1 on the edges."""
        weight = np.ones(self.shape[1:], np.float32)
        weight[1:, 1:] = 2
        return weight

    @cached_property
    def gain(self) -> Gather:
        """Packed K from its half spectrum, read as irfft2 reads it: the symmetric part of self-conjugate columns."""
        u, v, imaginary, exists = _frequencies(self.height, self.width)
        alone = (v == 0) | (2 * v == self.width)
        mirror = np.where(alone, -u % self.height, u)
        index = np.stack([(row * (self.width // 2 + 1) + v) * 2 + imaginary for row in (u, mirror)])
        sign = np.stack([np.ones(u.shape), np.where(alone & (imaginary == 1), -1, 1)])
        index, scale = np.where(exists, index, 0), np.where(exists, sign / 2, 0)
        return Gather(index.reshape(2, -1).astype(np.int32), scale.reshape(2, -1).astype(np.float32))

    @cached_property
    def pack(self) -> Gather:
        """Packed state from its half spectrum."""
        return Gather(self.gain.index, (self.gain.scale / self._scale).astype(np.float32))

    @cached_property
    def unpack(self) -> Gather:
        """Half spectrum from a packed state; imaginary parts that a real frame does not have are 0."""
        index = np.zeros((1, self.height * (self.width // 2 + 1) * 2), np.int32)
        scale = np.zeros(index.shape, np.float32)
        for source, sign in zip(self.gain.index[::-1], self.gain.scale[::-1], strict=True):
            here = np.flatnonzero(sign)
            index[0, source[here]] = here
            scale[0, source[here]] = 2 * sign[here] * self._scale[here]
        return Gather(index, scale)

    @cached_property
    def _scale(self) -> np.ndarray:
        """Half spectrum = scale * packed, with the corner's signs: flat."""
        size = np.sqrt(self.height * self.width)
        scale = np.broadcast_to(size * np.where(self.weight == 2, 0.5, np.sqrt(0.5)), self.shape).copy()
        scale[:, 0, 0] = size * np.array([1, -1, 1, -1])
        return scale.ravel()


layout = lru_cache(maxsize=None)(Layout)


def _frequencies(height: int, width: int):
    """For every packed entry: its frequency (u, v), 1 for an imaginary part, and whether the grid has it."""
    part, j, i = np.ogrid[:4, : slots(width), : slots(height)]
    second, corner = part // 2, (i == 0) & (j == 0)
    row_edge, column_edge = (i == 0) & (j > 0), (j == 0) & (i > 0)
    u = np.where(row_edge | corner, second * (height // 2), np.where(column_edge | (second == 0), i, -i % height))
    v = np.where(column_edge, second * (width // 2), np.where(corner, part % 2 * (width // 2), j))
    exists = (i < (height + 1) // 2) & (j < (width + 1) // 2)
    if height % 2:
        exists = exists & ~((i == 0) & (second == 1))
    if width % 2:
        exists = exists & ~(column_edge & (second == 1)) & ~(corner & (part % 2 == 1))
    return np.broadcast_arrays(u, v, np.where(corner, 0, part % 2), exists)
