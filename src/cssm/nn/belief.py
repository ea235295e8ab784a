"""Belief: where a thing may be, carried from frame to frame by a spectral recurrence of motion and forgetting.

A Bayes filter multiplies the evidence of a frame by a prior, the last posterior moved on: p_t ~ e^{l_t} (k * p_{t-1}).
That is no linear recurrence. Here layer i takes the posteriors p^{i-1} of the layer below for its own past:

    S_t = a k * S_{t-1} + g_t p^{i-1}_t,    prior_t = a k * S_{t-1} = S_t - g_t p^{i-1}_t,    k = softmax(z) of its taps
    p^i_t = softmax over the frame of l_t + s log(e + prior_t) + r_t

which is linear in time: one `spectral_scan` for all frames, or one frame after the other. The layers are Picard
iterations of the filter; the lowest posterior is that of each frame alone. k is positive and sums to one: it spreads
the belief as motion spreads where a thing may be, and |a k^| <= a < 1 bounds the state. Channels have their own
motions and decays; g_t in (0, 1) says how far the posterior of a frame is to be trusted; e is the share of a thing
that may be anywhere again. The grid has a margin, so that what leaves the frame does not come in opposite.
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
FASTER = 10.0  # these parameters are kept divided by it: Adam moves all by as much, and theirs are few and large
DECAYS = (0.4, 0.98)  # at the start, spread over the channels
SPREADS = (0.25, 0.4, 0.7)  # cells a frame, of the motions at the start
SPEEDS = (0.0, 0.3, 0.0, 0.6)  # cells a frame
ANYWHERE = 0.02  # e at the start, where 1 is the prior of not knowing
EPSILON = 1e-3  # of what enters in a frame: a channel with less than that has forgotten


class Belief(nnx.Module):
    """One layer of the filter. Maps are (n, t, h, w), one row n for each thing that is tracked.

    The prior is the mean of the channels' priors, each a distribution over the frame times its number of cells, with
    learned weights; r_t is an MLP, cell by cell, of the features of the evidence and of the channels' priors.

    Args:
      channels: c, motions and decays. features: of the evidence. kernel_size: taps along each side of k.
      memory: False leaves the past out, for comparison.

    >>> layer = Belief(4, 6, rngs=nnx.Rngs(0))
    >>> logits, features = jnp.zeros((2, 3, 6, 5)), jnp.ones((2, 3, 6, 5, 6))
    >>> state, new = layer.scan(layer.init_state(2, (6, 5)), logits, features, jax.nn.softmax(logits), jnp.ones((2, 3)))
    >>> new.shape
    (2, 3, 6, 5)
    """

    def __init__(self, channels: int, features: int, kernel_size: int = 7, *, memory: bool = True, rngs: nnx.Rngs):
        self.channels, self.memory = channels, memory
        low, high = (math.log(a / (1 - a)) for a in DECAYS)
        self.kernel = nnx.Param(_motions(channels, kernel_size) / FASTER)
        self.decay = nnx.Param(jnp.linspace(low, high, channels)[_order(channels)] / FASTER)
        self.mixture = nnx.Param(jnp.zeros(channels))
        self.anywhere = nnx.Param(jnp.full((), math.log(ANYWHERE) / FASTER))
        self.strength = nnx.Param(jnp.full((), 1 / FASTER))
        self.up = Dense(features + channels, features, rngs=rngs)
        self.down = Dense(features, 1, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)

    def init_state(self, rows: int, grid: Grid) -> Complex[Any, "n c h wf"]:
        """No past, for maps of grid (H, W) cells."""
        return spectral_zero_state(rows, self.channels, self._padded(grid))

    def spectrum(self, grid: Grid) -> Complex[Any, "c h wf"]:
        """a k^ on the grid with its margin."""
        return kernel_spectrum(self.decays()[:, None, None] * self.motions(), self._padded(grid))

    def motions(self) -> Float[Any, "c k k"]:
        """k: for each channel, the distribution of a step, in cells."""
        return jax.nn.softmax(FASTER * self.kernel[...].reshape(self.channels, -1)).reshape(self.kernel[...].shape)

    def decays(self) -> Float[Any, "c"]:
        """a: the share of each channel that is left after a frame."""
        return jax.nn.sigmoid(FASTER * self.decay[...])

    def scan(
        self,
        state: Complex[Any, "n c k wf"],
        logits: Float[Any, "n t h w"],
        features: Float[Any, "n t h w f"],
        posterior: Float[Any, "n t h w"],
        gate: Float[Any, "n t"],
    ) -> tuple[Complex[Any, "n c k wf"], Float[Any, "n t h w"]]:
        """Frames from a carried state: the state after them, and the logits of the posterior of each.

        logits, features: of the evidence. posterior: of the layer below, a distribution over each frame or zero.
        """
        state, prior = self._prior(state, posterior * gate[..., None, None])
        share = jnp.exp(FASTER * self.anywhere[...])
        together = jnp.concatenate([features, jnp.log(share + prior)], -1)
        rest = self.down(jax.nn.relu(self.up(together)))[..., 0]
        mixed = prior @ jax.nn.softmax(FASTER * self.mixture[...])
        return state, logits + FASTER * self.strength[...] * jnp.log(share + mixed) + rest

    def _prior(self, state, entering) -> tuple[Any, Float[Any, "n t h w c"]]:
        """The state after the frames, and each channel's prior of every frame: 1 on average, or 0 without a past."""
        height, width = entering.shape[2:]
        if not self.memory:
            return state, jnp.zeros((*entering.shape, self.channels), entering.dtype)
        padded = jnp.pad(entering, [(0, 0), (0, 0), (0, MARGIN), (0, MARGIN)])[..., None]
        lift = jnp.ones((1, self.channels), entering.dtype)
        state, summed = spectral_scan(padded, self.spectrum((height, width)), state=state, lift=lift)
        past = jnp.maximum(summed[:, :, :height, :width] - entering[..., None], 0)
        return state, height * width * past / (past.sum((2, 3), keepdims=True) + EPSILON)

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
    rows = zip(speed, angles, strict=True)
    away = [np.square(y - v * np.sin(angle)) + np.square(x - v * np.cos(angle)) for v, angle in rows]
    return jnp.asarray(-np.stack(away) / (2 * spread[:, None, None] ** 2), jnp.float32)
