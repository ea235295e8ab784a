"""From features to logits: which frames are read, how space is pooled, LayerNorm, Dense."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, Logits

FRAMES = ("last", "mean", "all")
POOLS = {"max": jnp.max, "mean": jnp.mean}


class Readout(nnx.Module):
    """Logits from block features.

    Args:
      frames: "last" reads the last frame, "mean" the mean over frames, "all" pools over time together with space.
      pool: "max" or "mean" over space.

    Streaming: `init_state` / `update` give after every frame the logits of the clip up to there.
    Source: 003 Methods, section 1.2.
    """

    def __init__(self, channels: int, classes: int, frames: str, pool: str, *, rngs: nnx.Rngs):
        if frames not in FRAMES:
            raise UsageError(f"unknown frame readout {frames!r}: use {', '.join(FRAMES)}")
        if pool not in POOLS:
            raise UsageError(f"unknown pool {pool!r}: use {' or '.join(POOLS)}")
        self.channels, self.frames, self.pool = channels, frames, pool
        self.norm = nnx.LayerNorm(channels, rngs=rngs)
        self.head = nnx.Linear(channels, classes, rngs=rngs)

    def __call__(self, features: Float[Any, "b *axes c"]) -> Logits:
        """Every axis between batch and channels is pooled."""
        return self.logits(POOLS[self.pool](features, tuple(range(1, features.ndim - 1))))

    def logits(self, pooled: Float[Any, "b c"]) -> Logits:
        return self.head(self.norm(pooled)).astype(jnp.float32)

    def init_state(self, batch: int, grid: Grid):
        """What has been read so far: nothing for "last"; the running sum or maximum otherwise."""
        if self.frames == "last":
            return ()
        if self.frames == "all" and self.pool == "max":
            return jnp.full((batch, self.channels), -jnp.inf, jnp.float32)
        return jnp.zeros((batch, *grid, self.channels) if self.pool == "max" else (batch, self.channels), jnp.float32)

    def update(self, state, features: Frame, count):
        """Read one more frame (B, H, W, C), the count-th: (state, logits of all frames so far)."""
        if self.frames == "last":
            return state, self(features)
        wide = features.astype(jnp.float32)
        if self.frames == "all" and self.pool == "max":
            state = jnp.maximum(state, wide.max((1, 2)))
            return state, self.logits(state)
        state = state + (wide if self.pool == "max" else wide.mean((1, 2)))
        mean = state / count
        return state, self.logits(mean.max((1, 2)) if self.pool == "max" else mean)
