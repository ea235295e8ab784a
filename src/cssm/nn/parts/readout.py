"""From features to logits: which frames are read, how space is pooled, LayerNorm, Dense."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, Int, Logits, Video

from ..layer import Layer, check_state
from ..shared.running import compensated, counted
from ..shared.wide import wide
from .dense import Dense
from .norm import ChannelNorm

FRAMES = ("last", "mean", "all")


@jax.custom_jvp
def largest(x: Float[Any, "b *axes c"]) -> Float[Any, "b c"]:
    """The maximum over all axes between; places within four roundings of it share its gradient equally.

    The gradient of jnp.max asks for places equal to the maximum. Where the compiler computes x a second time for it, in
    another order, there may be none: 0 / 0.

    >>> jax.grad(lambda x: largest(x).sum())(jnp.array([[[1.0], [3.0], [3.0]]])).ravel().tolist()
    [0.0, 0.5, 0.5]
    """
    return x.max(_between(x))


@largest.defjvp
def _slope_of_largest(primals, tangents):
    (x,), (slope,) = primals, tangents
    top = x.max(_between(x), keepdims=True)
    rounding = 4 * jnp.finfo(x.dtype).eps * jnp.abs(x).max(_between(x), keepdims=True)
    near = x >= top - rounding
    share = slope.sum(_between(x), where=near) / jnp.maximum(near.sum(_between(x)), 1)
    return largest(x), share.astype(x.dtype)


def _between(x) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


def average(x: Float[Any, "b *axes c"]) -> Float[Any, "b c"]:
    """The mean over all axes between."""
    return x.mean(_between(x))


def first_token(x: Float[Any, "b *axes c"]) -> Float[Any, "b c"]:
    """The first place of each frame, (B, [T,] H, W, C), and the mean over frames."""
    return average(x[..., :1, :1, :])


POOLS = {"max": largest, "mean": average, "token": first_token}


class Read(NamedTuple):
    """How many frames of each clip were read, and what is held: a mean and what it lacks, a maximum, or nothing."""

    frames: Int[jax.Array, "b"]
    held: Any


class Readout(Layer):
    """Logits from block features.

    Args:
      frames: "last" reads the last frame, "mean" the mean over frames, "all" pools over time together with space.
      pool: "max" or "mean" over space, or "token": the first place, where a class token stands.

    A call reads a whole clip; `step` and `scan` give the logits of the clip up to there.

    Raises:
      UsageError: an unknown readout of frames, or pool.

    Source: 003 Methods, section 1.2.

    >>> readout = Readout(4, 10, "mean", "max", rngs=nnx.Rngs(0))
    >>> readout.scan(readout.init_state(2, (8, 8)), jnp.ones((2, 3, 8, 8, 4)))[1].shape
    (2, 10)
    """

    kind = "readout"

    def __init__(self, channels: int, classes: int, frames: str, pool: str, *, rngs: nnx.Rngs):
        if frames not in FRAMES:
            raise UsageError(f"unknown frame readout {frames!r}: use {', '.join(FRAMES)}")
        if pool not in POOLS:
            raise UsageError(f"unknown pool {pool!r}: use {', '.join(POOLS)}")
        self.channels, self.frames, self.pool = channels, frames, pool
        self.norm = ChannelNorm(channels, rngs=rngs)
        self.head = Dense(channels, classes, rngs=rngs)

    def __call__(self, features: Float[Any, "b *axes c"]) -> Logits:
        """Logits of what is read of a clip, or of its one frame that is: all axes but batch and channels are pooled."""
        return self.logits(POOLS[self.pool](features))

    def logits(self, pooled: Float[Any, "b c"]) -> Logits:
        """Logits of features that are pooled already."""
        return wide(self.head(self.norm(pooled)))

    def init_state(self, batch: int, grid: Grid) -> Read:
        """Nothing read. The running mean has the grid where space is pooled after time, by its maximum."""
        count = jnp.zeros((batch,), jnp.int32)
        if self.frames == "last":
            return Read(count, ())
        if self.frames == "all" and self.pool == "max":
            return Read(count, jnp.full((batch, self.channels), -jnp.inf, jnp.float32))
        space = grid if self.pool == "max" else ()
        return Read(count, jnp.zeros((batch, *space, self.channels, 2), jnp.float32))

    def step(self, state: Read, x: Frame) -> tuple[Read, Logits]:
        """Read one more frame (B, H, W, C): the state after it, and the logits of all frames so far."""
        return self.scan(state, x[:, None])

    def scan(self, state: Read, x: Video) -> tuple[Read, Logits]:
        """Read more frames (B, T, H, W, C): the state after them, and the logits of all frames so far.

        Raises:
          ShapeError: a state of another batch, grid or readout.
        """
        check_state(state, x, self)
        steps = x.shape[1]
        count, full = counted(state.frames, steps), wide(x)
        if self.frames == "last":
            return Read(count, ()), self(x[:, -1])
        if self.frames == "all" and self.pool == "max":
            held = jnp.maximum(state.held, largest(full))
            return Read(count, held), self.logits(held)
        mean, rest = jnp.moveaxis(state.held, -1, 0)
        new = full.mean(1) if self.pool == "max" else POOLS[self.pool](full)
        weight = steps / count.reshape(-1, *[1] * (mean.ndim - 1)).astype(full.dtype)
        held = compensated(mean, rest + weight * (new - mean - rest))
        mean = held[..., 0]
        return Read(count, held), self.logits(largest(mean) if self.pool == "max" else mean)
