"""Fewer, wider pixels between blocks."""

from typing import Any

from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Grid

from .norm import ChannelNorm
from .patches import PatchConv


def strided(grid: Grid, stride: int) -> Grid:
    """The grid that is left of (H, W) by a stride: (ceil(H / stride), ceil(W / stride)).

    >>> strided((97, 61), 4)
    (25, 16)
    """
    return -(-grid[0] // stride), -(-grid[1] // stride)


class Downsample(nnx.Module):
    """LayerNorm over channels, then a convolution of `stride` x `stride` taps and that stride.

    Args:
      in_channels, channels: before and after. stride: at least 1. padding: of odd grids, as of `PatchConv`.

    Source: Liu et al. 2022, A ConvNet for the 2020s, between its stages.

    >>> import jax.numpy as jnp
    >>> Downsample(4, 8, 2, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 9, 7, 4))).shape
    (1, 3, 5, 4, 8)
    """

    def __init__(self, in_channels: int, channels: int, stride: int, *, padding: str = "same", rngs: nnx.Rngs):
        if stride < 1:
            raise UsageError(f"the stride of a block is {stride}, expected at least 1")
        self.norm = ChannelNorm(in_channels, rngs=rngs)
        self.conv = PatchConv(in_channels, channels, stride, padding=padding, rngs=rngs)

    def grid(self, grid: Grid) -> Grid:
        """The grid of the output, for input of (H, W)."""
        return self.conv.grid(grid)

    def __call__(self, x: Float[Any, "*axes h w rgb"]) -> Float[Any, "*axes height width c"]:
        return self.conv(self.norm(x))
