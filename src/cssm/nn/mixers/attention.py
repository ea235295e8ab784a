"""Attention controls: pre-LN multi-head attention within each frame, or over space and time. Not recurrent.

With s = x + p, p a learned position table interpolated to the grid that arrives: s <- s + a * attention(LN(s)), then
s <- s + m * MLP(LN(s)); a, m are learned LayerScales (init 1e-2, so that the baseline is not crippled at the start).
The output is what is added to x, summed without x itself, which the block adds.

Source: docs/math.md section 3; 003 Methods (`spatial_attn`, `transformer`); Vaswani et al. 2017; Bertasius et al. 2021
for the divided space-time form.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Grid, Video

from ..mixer import MIXERS, Control
from ..parts.attention import Attention
from ..parts.dense import Dense
from ..parts.norm import ChannelNorm
from ..parts.position import interpolate_table, rotary_angles


class Branch(nnx.Module):
    """scale * f(LN(x)): what a pre-LN branch adds to its input."""

    def __init__(self, channels: int, layer, layer_scale: float | None, *, rngs: nnx.Rngs):
        self.norm = ChannelNorm(channels, rngs=rngs)
        self.layer = layer
        self.scale = nnx.Param(jnp.full((channels,), 1.0 if layer_scale is None else layer_scale))

    def __call__(self, x, *args):
        return self.scale[...] * self.layer(self.norm(x), *args)


class MLP(nnx.Module):
    def __init__(self, channels: int, ratio: int, *, rngs: nnx.Rngs):
        if ratio < 1:
            raise UsageError(f"attention: mlp_ratio is {ratio}, expected at least 1")
        self.up = Dense(channels, ratio * channels, rngs=rngs)
        self.down = Dense(ratio * channels, channels, rngs=rngs)

    def __call__(self, x):
        return self.down(jax.nn.gelu(self.up(x)))


class _Positions(nnx.Module):
    """Learned table on a reference grid, or rotary angles over (T, H, W)."""

    def __init__(self, channels: int, grid: Grid | None, rotary: bool, *, rngs: nnx.Rngs):
        if grid is None and not rotary:
            raise UsageError("attention mixers learn a position table: pass grid=(H, W), or rotary=True")
        self.rotary = rotary
        if not rotary and grid is not None:
            self.table = nnx.Param(0.02 * jax.random.normal(rngs.params(), (*grid, channels)))

    def added(self, x):
        """What the table adds to every frame, x's shape; nothing with rotary positions."""
        if self.rotary:
            return jnp.zeros_like(x)
        return jnp.broadcast_to(interpolate_table(self.table[...], x.shape[2:4]).astype(x.dtype), x.shape)

    def angles(self, x):
        """(T, H, W, C/2), or None."""
        return rotary_angles(*x.shape[1:]) if self.rotary else None


@MIXERS.register("spatial_attn")
class SpatialAttention(Control):
    """Attention within each frame; frames do not see each other: a control.

    Args: channels: C. grid: (H, W) of the position table. heads. mlp_ratio. layer_scale: initial scale of both
      branches, or None for 1. rotary: rotary positions on q, k instead of the table.

    >>> from flax import nnx
    >>> SpatialAttention(8, grid=(4, 4), rngs=nnx.Rngs(0))(jnp.zeros((1, 2, 4, 4, 8))).shape
    (1, 2, 4, 4, 8)
    """

    turns_inside = learns_grid = frame_wise = True

    def __init__(
        self, channels: int, *, grid: Grid | None = None, heads: int = 4, mlp_ratio: int = 4,
        layer_scale: float | None = 1e-2, rotary: bool = False, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.channels = channels
        self.position = _Positions(channels, grid, rotary, rngs=rngs)
        self.space = Branch(channels, Attention(channels, heads, rngs=rngs), layer_scale, rngs=rngs)
        self.mlp = Branch(channels, MLP(channels, mlp_ratio, rngs=rngs), layer_scale, rngs=rngs)

    def _mix(self, x: Video) -> Video:
        # all that is added to x: the block adds x itself
        y = self.position.added(x)
        y = y + _over_space(self.space, x + y, self.position.angles(x))
        return y + self.mlp(x + y)


@MIXERS.register("transformer", aliases=("spatiotemporal_attn",))
class SpaceTimeAttention(Control):
    """Attention over space and time: a control.

    "divided": within each frame, then over time at each position; "joint": among all T * H * W tokens.

    Args: as `spatial_attn`, and attention: "divided" or "joint".

    >>> from flax import nnx
    >>> SpaceTimeAttention(8, grid=(4, 4), rngs=nnx.Rngs(0))(jnp.zeros((1, 2, 4, 4, 8))).shape
    (1, 2, 4, 4, 8)
    """

    turns_inside = learns_grid = True

    def __init__(
        self, channels: int, *, grid: Grid | None = None, heads: int = 4, mlp_ratio: int = 4,
        layer_scale: float | None = 1e-2, rotary: bool = False, attention: str = "divided", rngs: nnx.Rngs,
    ):  # fmt: skip
        if attention not in ("divided", "joint"):
            raise UsageError(f"transformer: unknown attention {attention!r}, use divided or joint")
        self.channels, self.attention = channels, attention
        self.position = _Positions(channels, grid, rotary, rngs=rngs)
        self.space = Branch(channels, Attention(channels, heads, rngs=rngs), layer_scale, rngs=rngs)
        if attention == "divided":
            self.time = Branch(channels, Attention(channels, heads, rngs=rngs), layer_scale, rngs=rngs)
        self.mlp = Branch(channels, MLP(channels, mlp_ratio, rngs=rngs), layer_scale, rngs=rngs)

    def _mix(self, x: Video) -> Video:
        # without a temporal position, attention over time could not tell past from future
        angles = rotary_angles(*x.shape[1:])
        y, space_angles = self.position.added(x), self.position.angles(x)
        if self.attention == "joint":
            flat = (x + y).reshape(x.shape[0], -1, x.shape[-1])
            y = y + self.space(flat, angles.reshape(-1, angles.shape[-1])).reshape(x.shape)
        else:
            y = y + _over_space(self.space, x + y, space_angles)
            time_first = jnp.moveaxis(x + y, 1, 3)  # b h w t c
            y = y + jnp.moveaxis(self.time(time_first, jnp.moveaxis(angles, 0, 2)), 3, 1)
        return y + self.mlp(x + y)


def _over_space(branch, x, angles):
    """Apply a token branch within each frame of "b t h w c"."""
    if angles is not None:
        angles = angles.reshape(angles.shape[0], -1, angles.shape[-1])
    return branch(x.reshape(*x.shape[:2], -1, x.shape[-1]), angles).reshape(x.shape)
