"""A convolution whose stride is its size: every patch of pixels mapped by one matrix."""

import math

import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Grid

PADDINGS = ("same", "valid")


class PatchConv(nnx.Conv):
    """A convolution of size x size taps and that stride, of frames (..., H, W, C).

    It is one product of matrices: XLA's convolution takes 2 to 7 times as long on a CPU, forward and backward.

    Args:
      in_channels, channels: C before and after. size: pixels along each side of a patch.
      padding: what happens to a grid that is no multiple of size: "same" fills it up with zeros on both sides, "valid"
        leaves the rest out, as PyTorch does.

    Raises:
      UsageError: a size below 1, or an unknown padding.

    >>> conv = PatchConv(3, 8, 4, rngs=nnx.Rngs(0))
    >>> conv(jnp.zeros((2, 5, 9, 7, 3))).shape, conv.grid((9, 7))
    ((2, 5, 3, 2, 8), (3, 2))
    """

    def __init__(self, in_channels: int, channels: int, size: int, *, padding: str = "same", rngs: nnx.Rngs):
        if padding not in PADDINGS:
            raise UsageError(f"unknown padding {padding!r} of patches: use {' or '.join(PADDINGS)}")
        super().__init__(in_channels, channels, (size, size), strides=size, padding=padding.upper(), rngs=rngs)
        self.size = size

    def grid(self, grid: Grid) -> Grid:
        """The grid of the patches of frames of (H, W) pixels."""
        size = self.size
        rows, columns = (-(-n // size) if self.padding == "SAME" else n // size for n in grid)
        return rows, columns

    def __call__(self, inputs):
        *lead, height, width, channels = inputs.shape
        size, (rows, columns) = self.size, self.grid((height, width))
        x = inputs.reshape(math.prod(lead), height, width, channels)
        spare = rows * size - height, columns * size - width
        if self.padding == "SAME":
            x = jnp.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in spare), (0, 0)])
        x = x[:, : rows * size, : columns * size].reshape(-1, rows, size, columns, size, channels)
        x = x.swapaxes(2, 3).reshape(-1, size * size * channels)
        x, kernel, bias = self.promote_dtype((x, self.kernel[...], self.bias[...]), dtype=self.dtype)  # pyright: ignore
        y = x @ kernel.reshape(-1, kernel.shape[-1]) + bias
        return y.reshape(*lead, rows, columns, y.shape[-1])
