"""Belief: where a thing may be, carried from frame to frame by a spectral recurrence of motion and forgetting.

A map per channel is moved by the distribution of one step's motion, fades, and takes in the new evidence:

    S_t = a k * S_{t-1} + g_t u_t,      k = softmax(z) over its taps, 0 < a < 1

k is positive and sums to one: a * k spreads the belief as motion spreads where a thing may be, and |a k^| <= a < 1
bounds the state. Channels have their own speeds and decays; g_t in (0, 1) says how far a frame's evidence is taken.
The recurrence is `ops.spectral_scan`, on a grid with a margin, so that what leaves the frame does not come in opposite.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.typing import Complex, Float, Grid
from cssm.ops.spectral import kernel_spectrum, spectral_scan, spectral_zero_state

from .parts.dense import Dense

MARGIN = 4  # cells
DECAYS = (0.5, 0.98)  # at the start, spread over the channels
EPSILON = 1e-6


class Belief(nnx.Module):
    """One layer: the recurrence on what comes in, and a residual MLP of both.

        S = scan(g * Dense(x));     x <- x + MLP([x, S / rms(S)])

    rms over space and channels of a frame. Frames are of (n, t, h, w, c), one row for each thing that is tracked.

    Args:
      channels: c. kernel_size: taps along each side of the motion kernel. memory: False leaves the past out (S = g u),
        for comparison.

    >>> layer = Belief(8, rngs=nnx.Rngs(0))
    >>> state, y = layer.scan(layer.init_state(2, (6, 5)), jnp.ones((2, 3, 6, 5, 8)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 3, 6, 5, 8)
    """

    def __init__(self, channels: int, kernel_size: int = 7, *, memory: bool = True, rngs: nnx.Rngs):
        self.channels, self.memory = channels, memory
        self.enter = Dense(channels, channels, use_bias=False, rngs=rngs)
        self.kernel = nnx.Param(_motions(channels, kernel_size))
        low, high = (math.log(a / (1 - a)) for a in DECAYS)
        self.decay = nnx.Param(jnp.linspace(low, high, channels)[jnp.argsort(_order(channels))])
        self.scale = nnx.Param(jnp.ones(channels))
        self.up = Dense(2 * channels, channels, rngs=rngs)
        self.down = Dense(channels, channels, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)

    def init_state(self, rows: int, grid: Grid) -> Complex[Any, "n c h wf"]:
        """No past, for maps of grid (H, W) cells."""
        return spectral_zero_state(rows, self.channels, self._padded(grid))

    def spectrum(self, grid: Grid) -> Complex[Any, "c h wf"]:
        """a k^ on the grid with its margin."""
        kernel = jax.nn.softmax(self.kernel[...].reshape(self.channels, -1)).reshape(self.kernel[...].shape)
        decay = jax.nn.sigmoid(self.decay[...])
        return kernel_spectrum(decay[:, None, None] * kernel, self._padded(grid))

    def scan(
        self, state: Complex[Any, "n c k wf"], x: Float[Any, "n t h w c"], gate: Float[Any, "n t"]
    ) -> tuple[Complex[Any, "n c k wf"], Float[Any, "n t h w c"]]:
        """Frames from a carried state: the state after them, and the belief of each."""
        height, width = x.shape[2:4]
        entering = gate[..., None, None, None] * self.enter(x)
        if self.memory:
            padded = jnp.pad(entering, [(0, 0), (0, 0), (0, MARGIN), (0, MARGIN), (0, 0)])
            state, believed = spectral_scan(padded, self.spectrum((height, width)), state=state)
            believed = believed[:, :, :height, :width]
        else:
            believed = entering
        size = jax.lax.rsqrt(jnp.square(believed).mean((2, 3, 4), keepdims=True) + EPSILON)
        both = jnp.concatenate([x, believed * size * self.scale[...]], -1)
        return state, x + self.down(jax.nn.relu(self.up(both)))

    def _padded(self, grid: Grid) -> Grid:
        return grid[0] + MARGIN, grid[1] + MARGIN


def _order(channels: int) -> np.ndarray:
    """A fixed order in which neighbouring channels differ."""
    return np.arange(channels) * 5 % channels if math.gcd(5, channels) == 1 else np.arange(channels)


def _motions(channels: int, size: int) -> Float[Any, "c k k"]:
    """Logits of Gaussian steps: every third about no motion, the others about one cell in directions all round."""
    y, x = np.mgrid[:size, :size] - size // 2
    angles = 2 * np.pi * np.arange(channels) / channels
    speed = np.where(np.arange(channels) % 3 == 0, 0.0, 1.0)
    away = (y - (speed * np.sin(angles))[:, None, None]) ** 2 + (x - (speed * np.cos(angles))[:, None, None]) ** 2
    return jnp.asarray(-away / (2 * 0.7**2), jnp.float32)
