"""Features of single frames at two strides, 4 and 8: the encoder of the point tracker."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.typing import Float

from .depthwise import Depthwise
from .mlp import MLP

GROUPS = 8
FINE, COARSE = 4, 8  # the strides, px


def as_float(pixels) -> Float[Any, "*axes"]:
    """uint8 pixels as -1..1; float ones as they are."""
    whole = jnp.issubdtype(pixels.dtype, jnp.integer)
    return pixels.astype(jnp.float32) / 127.5 - 1 if whole else pixels


class Pyramid(nnx.Module):
    """Two strided convolutions, then blocks of a 7 x 7 depthwise convolution and an MLP, at stride 4 and at stride 8.

        x <- x + MLP(GroupNorm(depthwise(x)))

    GroupNorm takes the mean and variance of a group of channels over a frame. Each frame is seen alone.

    Args:
      fine, coarse: channels at stride 4 and 8, multiples of 8. blocks: at each of the two strides.

    Source: Wu and He 2018 (GroupNorm); Liu et al. 2022 (the block).

    >>> fine, coarse = jax.eval_shape(Pyramid(16, 24, (1, 1), rngs=nnx.Rngs(0)), jnp.zeros((2, 32, 48, 3)))
    >>> fine.shape, coarse.shape
    ((2, 8, 12, 16), (2, 4, 6, 24))
    """

    def __init__(self, fine: int, coarse: int, blocks: tuple[int, int], *, rngs: nnx.Rngs):
        stem = 2 * fine // 3 // GROUPS * GROUPS or GROUPS
        self.stem = Strided(3, stem, rngs=rngs)
        self.to_fine = Strided(stem, fine, rngs=rngs)
        self.fine_blocks = nnx.List([PyramidBlock(fine, rngs=rngs) for _ in range(blocks[0])])
        self.to_coarse = Strided(fine, coarse, rngs=rngs)
        self.coarse_blocks = nnx.List([PyramidBlock(coarse, rngs=rngs) for _ in range(blocks[1])])

    def __call__(self, x: Float[Any, "n height width 3"]) -> tuple[Float[Any, "n h w c"], Float[Any, "n k l d"]]:
        """(fine, coarse) features of frames whose sides are multiples of 8 px."""
        fine = self.to_fine(self.stem(x))
        for block in self.fine_blocks:
            fine = block(fine)
        coarse = self.to_coarse(fine)
        for block in self.coarse_blocks:
            coarse = block(coarse)
        return fine, coarse


class Strided(nnx.Module):
    """GELU(GroupNorm(3 x 3 convolution of stride 2))."""

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(in_channels, channels, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.GroupNorm(channels, num_groups=GROUPS, rngs=rngs)

    def __call__(self, x):
        return jax.nn.gelu(self.norm(self.conv(x)))


class PyramidBlock(nnx.Module):
    """x + MLP(GroupNorm(depthwise(x)))."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.conv = Depthwise(channels, 7, rngs=rngs)
        self.norm = nnx.GroupNorm(channels, num_groups=GROUPS, rngs=rngs)
        self.mlp = MLP(channels, 2.0, rngs=rngs)

    def __call__(self, x):
        return x + self.mlp(self.norm(self.conv(x[:, None])[:, 0]))
