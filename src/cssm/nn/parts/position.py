"""Positions: multi-axis rotary embedding over (T, H, W), and learned tables that follow the grid."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import ShapeError
from cssm.core.typing import Grid, Int

BITS = 15  # half of those of a part of a frame: sums of 2^16 halves fit an int32


class Time(NamedTuple):
    """When a frame of a stream is: whole frames, and parts of one in units of 2^-30. Integers add up exactly."""

    frames: Int[Any, "b"]
    parts: Int[Any, "b"]

    @classmethod
    def zero(cls, batch: int) -> "Time":
        return cls(jnp.zeros((batch,), jnp.int32), jnp.zeros((batch,), jnp.int32))

    def after(self, dt) -> "Time":
        """The time later by the sum of the steps dt (B, T).

        >>> [v.item() for v in Time.zero(1).after(jnp.full((1, 7), 1.5))]  # 10 1/2
        [10, 536870912]
        """
        whole = jnp.floor(dt)
        parts = jnp.round((dt - whole) * 4**BITS).astype(jnp.int32)
        low = (parts & (2**BITS - 1)).sum(1) + (self.parts & (2**BITS - 1))
        high = (parts >> BITS).sum(1) + (self.parts >> BITS) + (low >> BITS)
        frames = self.frames + whole.astype(jnp.int32).sum(1) + (high >> BITS)
        return Time(frames, ((high & (2**BITS - 1)) << BITS) | (low & (2**BITS - 1)))

    def angles(self, frequency: np.ndarray):
        """(B, F): 2 pi (t f / 2 pi mod 1) for F frequencies in radians per frame, to 1e-6 however large t is."""
        turns = frequency / (2 * np.pi) * 2.0**32  # per frame, in units of 2^-32
        units = np.floor(turns).astype(np.uint32)
        wrapped = self.frames.astype(jnp.uint32)[:, None] * units  # modulo 2^32: whole turns vanish
        rest = self.frames.astype(jnp.float32)[:, None] * jnp.asarray((turns - units) * 2.0**-32, jnp.float32)
        part = self.parts.astype(jnp.float32)[:, None] * jnp.asarray(frequency * 4.0**-BITS, jnp.float32)
        return 2 * np.pi * (wrapped.astype(jnp.float32) * 2.0**-32 + rest) + part


def rotary_angles(frames: int, height: int, width: int, channels: int, *, times=None, since: Time | None = None):
    """mrope: (T, H, W, C/2) angles in radians, t f, y f or x f with f_j = 10000^(-2j / C).

    The C/2 pairs are split T : H : W = n // 3 each, the rest to W; time takes the fastest frequencies.
    times (..., T): when the frames are, in frames; 0, 1, 2, ... when omitted. (..., T, H, W, C/2) angles with it.
    since (B,): what `times` (B, T) are counted from, so that they stay small in a long stream.

    Raises:
      ShapeError: an odd number of channels.

    Source: docs/math.md section 6; Su et al. 2021 (RoPE).

    >>> rotary_angles(2, 4, 4, 8).shape
    (2, 4, 4, 4)
    """
    if channels % 2:
        raise ShapeError(f"mrope turns pairs of channels: {channels} is odd; choose an even --embed-dim")
    pairs = channels // 2
    third = pairs // 3
    frequency = 10000.0 ** (-2.0 * jnp.arange(pairs) / channels)
    axis = jnp.array([0] * third + [1] * third + [2] * (pairs - 2 * third))
    clock = jnp.arange(frames, dtype=jnp.float32) if times is None else times
    places = jnp.broadcast_arrays(clock[..., None, None], jnp.arange(height)[:, None], jnp.arange(width))
    angles = jnp.stack([place.astype(jnp.float32) for place in places], -1)[..., axis] * frequency
    if since is None:
        return angles
    past = since.angles(10000.0 ** (-2.0 * np.arange(third) / channels))
    return angles + jnp.pad(past, [(0, 0), (0, pairs - third)])[:, None, None, None]


def steps_between(dt, begun=False):
    """(B, T): dt, but the very first frame of a video is at 0, whatever its dt. Their sums are when each frame is.

    dt (B, T): from each frame's predecessor to it. begun (B,): there was a frame before.

    >>> steps_between([[3.0, 1, 2]]).tolist(), steps_between([[3.0, 1, 2]], jnp.array([True])).tolist()
    ([[0.0, 1.0, 2.0]], [[3.0, 1.0, 2.0]])
    """
    dt = jnp.asarray(dt, jnp.float32)
    return dt.at[:, 0].set(jnp.where(begun, dt[:, 0], 0))


def rotate(x, angles):
    """Turn channel pairs (2j, 2j+1) of x "... c" by angles "... c/2". Keeps norms."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def learned_table(*shape: int, rngs: nnx.Rngs) -> nnx.Param:
    """A table of positions, or a token, with the initial values of vision transformers: N(0, .02^2) cut at 2 sigma."""
    return nnx.Param(0.02 * jax.random.truncated_normal(rngs.params(), -2, 2, shape))


def resample_table(table, grid: Grid):
    """A learned (H0, W0, C) table, resampled to (H, W, C) by smoothed cubic convolution, as vision transformers do
    (timm too); itself on its own grid."""
    return table if table.shape[:2] == grid else jax.image.resize(table, (*grid, table.shape[-1]), "cubic")


def interpolate_table(table, grid: Grid):
    """A learned (H0, W0, C) table, bilinearly resized to (H, W, C); itself on its own grid."""
    return table if table.shape[:2] == grid else jax.image.resize(table, (*grid, table.shape[-1]), "linear")
