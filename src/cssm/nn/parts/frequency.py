"""A network of frequencies alone: a stem that ends in a transform, and a mixer of channels at every frequency.

Complex numbers are pairs of real channels, real parts first: (..., H, W // 2 + 1, 2 C). No frequency meets another, so
that the one that is read, (0, 0), depends on the mean over space of what the stem gives and on nothing else.
Source: 000 section 4 (`fourier_v3`); Arjovsky et al. 2016, Unitary evolution recurrent neural networks (modReLU).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.typing import Grid, Video
from cssm.ops.spectral import to_spectrum

from ..mixer import Control
from .norm import ChannelNorm
from .patches import PatchConv
from .stem import Features, Pixels, Stem

TINY = 1e-12  # added to |z|^2, where the phase of 0 has no slope


class SpectralPatches(Stem):
    """Patches of p x p pixels, LayerNorm, and rfft2 / sqrt(H W) over their grid.

    >>> stem = SpectralPatches(3, 4, 4, rngs=nnx.Rngs(0))
    >>> stem(jnp.zeros((2, 32, 48, 3))).shape, stem.grid((32, 48))
    ((2, 8, 7, 8), (8, 7))
    """

    def __init__(self, in_channels: int, channels: int, patch_size: int, *, rngs: nnx.Rngs):
        self.in_channels, self.stride = in_channels, patch_size
        self.conv = PatchConv(in_channels, channels, patch_size, padding="valid", rngs=rngs)
        self.norm = ChannelNorm(channels, rngs=rngs)

    def grid(self, grid: Grid) -> Grid:
        height, width = self.conv.grid(grid)
        return height, width // 2 + 1

    def _embed(self, x: Pixels) -> Features:
        y = self.norm(self.conv(x))
        spectrum = jnp.moveaxis(to_spectrum(y), -3, -1) * (y.shape[-3] * y.shape[-2]) ** -0.5
        return jnp.concatenate([spectrum.real, spectrum.imag], -1).astype(y.dtype)


class FrequencyMix(Control):
    """y = modReLU(x W) at every frequency: W complex, modReLU(z) = relu(|z| + b) z / |z|.

    Args:
      channels: 2 C, real parts and imaginary parts.

    >>> FrequencyMix(8, rngs=nnx.Rngs(0))(jnp.ones((1, 2, 4, 3, 8))).shape
    (1, 2, 4, 3, 8)
    """

    frame_wise = True

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.channels, half = channels, channels // 2
        draw = lambda: jax.random.normal(rngs.params(), (half, half)) / np.sqrt(2 * half)  # noqa: E731
        self.real, self.imaginary = nnx.Param(draw()), nnx.Param(draw())
        self.bias = nnx.Param(jnp.zeros((half,)))

    def _mix(self, x: Video) -> Video:
        re, im = self.real[...].astype(x.dtype), self.imaginary[...].astype(x.dtype)
        kernel = jnp.concatenate([jnp.concatenate([re, im], 1), jnp.concatenate([-im, re], 1)])
        a, b = jnp.split(x @ kernel, 2, -1)
        size = jnp.sqrt(a * a + b * b + TINY)
        gain = jax.nn.relu(size + self.bias[...].astype(x.dtype)) / size
        return jnp.concatenate([a * gain, b * gain], -1)
