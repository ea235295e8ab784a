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
DECAYS = (0.6, 0.99)  # at the start, spread over the channels
SPREADS = (0.25, 0.4, 0.7)  # cells a frame, of the motions at the start
SPEEDS = (0.0, 0.3, 0.0, 0.6)  # cells a frame
EPSILON = 1e-6


class Belief(nnx.Module):
    """One layer: the recurrence on what comes in, and a residual MLP of both.

        S = scan(g * Dense(x)),     s = S / rms(S);     x <- x + MLP([x, s, x s])

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
        self.up = Dense(3 * channels, channels, rngs=rngs)
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
        believed = believed * size * self.scale[...]
        together = jnp.concatenate([x, believed, x * believed], -1)
        return state, x + self.down(jax.nn.relu(self.up(together)))

    def _padded(self, grid: Grid) -> Grid:
        return grid[0] + MARGIN, grid[1] + MARGIN


def _order(channels: int) -> np.ndarray:
    """A fixed order in which neighbouring channels differ."""
    return np.arange(channels) * 5 % channels if math.gcd(5, channels) == 1 else np.arange(channels)


def _motions(channels: int, size: int) -> Float[Any, "c k k"]:
    """Logits of Gaussian steps: every second about no motion, the others in directions all round; some spread more."""
    y, x = np.mgrid[:size, :size] - size // 2
    number = np.arange(channels)
    angles = 2 * np.pi * number / channels
    speed, spread = np.take(SPEEDS, number % len(SPEEDS)), np.take(SPREADS, number % len(SPREADS))
    away = [
        np.square(y - v * np.sin(angle)) + np.square(x - v * np.cos(angle))
        for v, angle in zip(speed, angles, strict=True)
    ]
    return jnp.asarray(-np.stack(away) / (2 * spread[:, None, None] ** 2), jnp.float32)
