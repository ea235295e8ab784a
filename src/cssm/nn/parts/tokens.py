"""The stem of vision transformers: patches, a table of positions, a class token."""

import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Grid

from .patches import PatchConv
from .position import learned_table, resample_table
from .stem import Features, Pixels, Stem

POSITIONS = ("learned", "mrope", "none")


class Tokens(Stem):
    """One token of C channels per patch, (..., H / p, W / p, C); with a class token one row, (..., 1, 1 + N, C).

    Args:
      in_channels, channels: of pixels and tokens. grid: (H, W) pixels of the training frames. patch_size: p.
      learned: whether a position is added to every patch, from a table that is resampled to other grids.
      class_token: whether a learned token comes first. class_position: whether it has a position of its own.

    Raises:
      UsageError: a patch size below 1, or larger than the frames.

    Source: Dosovitskiy et al. 2021, An image is worth 16x16 words; Touvron et al. 2022, DeiT III (no class position).

    >>> tokens = Tokens(3, 8, (32, 32), 16, learned=True, class_token=True, class_position=True, rngs=nnx.Rngs(0))
    >>> tokens(jnp.zeros((2, 32, 64, 3))).shape, tokens.grid((32, 64))
    ((2, 1, 9, 8), (1, 9))
    """

    def __init__(
        self, in_channels: int, channels: int, grid: Grid, patch_size: int, *, learned: bool, class_token: bool,
        class_position: bool, rngs: nnx.Rngs,
    ):  # fmt: skip
        if not 1 <= patch_size <= min(grid):
            raise UsageError(f"patch_size is {patch_size}, expected 1 to {min(grid)} for frames of {grid} pixels")
        self.in_channels, self.stride = in_channels, patch_size
        self.conv = PatchConv(in_channels, channels, patch_size, padding="valid", rngs=rngs)
        self.positions = learned_table(*self.conv.grid(grid), channels, rngs=rngs) if learned else None
        self.class_token = learned_table(channels, rngs=rngs) if class_token else None
        self.class_position = learned_table(channels, rngs=rngs) if class_token and class_position else None

    def grid(self, grid: Grid) -> Grid:
        rows, columns = self.conv.grid(grid)
        return (rows, columns) if self.class_token is None else (1, 1 + rows * columns)

    def _embed(self, x: Pixels) -> Features:
        height, width = x.shape[-3:-1]
        if height % self.stride or width % self.stride:
            raise ShapeError(
                f"frames of {height} x {width} pixels do not divide into patches of {self.stride}: resize or crop them "
                f"to multiples of {self.stride}"
            )
        y = self.conv(x)
        if self.positions is not None:
            y = y + resample_table(self.positions[...], (y.shape[-3], y.shape[-2])).astype(y.dtype)
        if self.class_token is None:
            return y
        first = self.class_token[...]
        first = first if self.class_position is None else first + self.class_position[...]
        y = y.reshape(*y.shape[:-3], 1, -1, y.shape[-1])
        first = jnp.broadcast_to(first.astype(y.dtype), (*y.shape[:-2], 1, y.shape[-1]))
        return jnp.concatenate([first, y], -2)
