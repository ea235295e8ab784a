"""Positions: multi-axis rotary embedding over (T, H, W), and learned tables that follow the grid."""

import jax
import jax.numpy as jnp

from cssm.core.errors import ShapeError
from cssm.core.typing import Grid


def rotary_angles(frames: int, height: int, width: int, channels: int, *, times=None):
    """mrope: (T, H, W, C/2) angles in radians, t f, y f or x f with f_j = 10000^(-2j / C).

    The C/2 pairs are split T : H : W = n // 3 each, the rest to W; time takes the fastest frequencies.
    times (..., T): when the frames are, in frames; 0, 1, 2, ... when omitted. (..., T, H, W, C/2) angles with it.

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
    return jnp.stack([place.astype(jnp.float32) for place in places], -1)[..., axis] * frequency


def frame_times(dt, time=0.0, begun=False):
    """(B, T): when each frame is, t_i = t_{i-1} + dt_i; the very first frame of a video is at 0, whatever its dt.

    dt (B, T): from each frame's predecessor to it. time (B,): of the last frame so far; begun (B,): there was one.

    >>> frame_times([[3.0, 1, 2]]).tolist(), frame_times([[3.0, 1, 2]], jnp.ones(1), jnp.array([True])).tolist()
    ([[0.0, 1.0, 3.0]], [[4.0, 5.0, 7.0]])
    """
    dt = jnp.asarray(dt, jnp.float32)
    first = jnp.where(begun, time + dt[:, 0], 0)
    return jnp.cumsum(dt.at[:, 0].set(first), 1)


def rotate(x, angles):
    """Turn channel pairs (2j, 2j+1) of x "... c" by angles "... c/2". Keeps norms."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def interpolate_table(table, grid: Grid):
    """A learned (H0, W0, C) table, bilinearly resized to (H, W, C); itself on its own grid."""
    return table if table.shape[:2] == grid else jax.image.resize(table, (*grid, table.shape[-1]), "linear")
