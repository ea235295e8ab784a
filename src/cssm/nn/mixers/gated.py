"""Gated CSSM, a spectral Mamba: decay, write and read gated per frame and frequency by the content of the frame.

v = dwconv_3x3(Dense(x)), z = Dense(x), u_t = silu(sum_j k_j v_{t-j}) over 4 frames; per channel and frequency
S_t = K e^{-D_t} S_{t-1} + D_t B_t rfft2(u_t), y_t = Dense(irfft2(C_t S_t) silu(z_t)), |K| < rho. The gates depend on
the mean of u_t over space: D = softplus(row) + softplus(column) >= 0, so that e^{-D} is a product of a row and a
column factor; B and C are products of linear factors. Channels share them, and only factors are kept per frame.

|S_t| <= D W / (1 - rho e^{-D}) at the largest D, W = max|B rfft2(u)|: if it holds for S_{t-1} it holds for S_t, because
D / (1 - rho e^{-D}) increases with D (its slope has the sign of 1 - rho e^{-D} (1 + D) >= 0). Finite even at rho = 1.

Source: docs/math.md section 3; 002 and 003 (`gated`, `GatedCSSM`); Gu and Dao (2023), Mamba.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.typing import Float, Frame, Grid, HalfSpectrum, SpectralState, Video
from cssm.ops import kernel_spectrum, stable_spectrum
from cssm.ops.cell import cell_scan, cell_step
from cssm.ops.cell import gated as gated_cell
from cssm.ops.scan.geometric import geometric
from cssm.ops.spectral import spectral_zero_state, to_space, to_spectrum

from ..mixer import MIXERS, Mixer, repeat_frame, select
from ..parts.dense import Dense
from ..shared.bounds import dense_bound, spectrum_bound
from ..shared.causal_conv import CausalConv, DepthwiseConv
from ..shared.gates import FactoredGates, outer, over_columns, over_rows
from ..shared.spectral import checked_margin, initial_kernel

CELL = gated_cell()
GATES = {"step": -2.0, "write": 1.0, "read": 1.0}  # initial bias of each factor


class GatedState(NamedTuple):
    past: Float[Any, "b p h w c"]
    spectrum: SpectralState


@MIXERS.register("gated")
class Gated(Mixer):
    """The spectral recurrence with gates per frame and frequency, from the content of the frame (spectral Mamba).

    Args:
      channels: C. kernel_size, rho, memory, init_scale: as in `no_gate` (circular boundary).
      conv_size: taps of the depthwise convolution over space, zero boundary. conv_frames: taps over time.
      knots: values per axis of the gates' reference grid.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> Gated(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    closed_form = ("last", "mean")

    def __init__(
        self, channels: int, *, kernel_size: int = 11, rho: float = 0.999, memory: float = 0.0,
        init_scale: float = 0.02, conv_size: int = 3, conv_frames: int = 4, knots: int = 17, rngs: nnx.Rngs,
    ):  # fmt: skip
        checked_margin("gated", kernel_size, rho, "circular", None)
        self.channels, self.rho = channels, rho
        self.recurrence_kernel = initial_kernel(rngs.params(), channels, kernel_size, init_scale, memory)
        self.inner = Dense(channels, channels, rngs=rngs)
        self.gate = Dense(channels, channels, rngs=rngs)
        self.space_conv = DepthwiseConv(channels, conv_size, rngs=rngs)
        self.time_conv = CausalConv(channels, conv_frames, rngs=rngs)
        self.gates = FactoredGates(channels, GATES, knots=knots, rngs=rngs)
        self.out = Dense(channels, channels, rngs=rngs)

    def kernel(self, grid: Grid) -> HalfSpectrum:
        """(C, H, W // 2 + 1): K, the gain of every channel and frequency per frame before the gate, |K| < rho."""
        return stable_spectrum(kernel_spectrum(self.recurrence_kernel[...], grid), self.rho)

    def init_state(self, batch: int, grid: Grid) -> GatedState:
        return GatedState(self.time_conv.init_state(batch, grid), spectral_zero_state(batch, self.channels, grid))

    def _step(self, state: GatedState, x: Frame) -> tuple[GatedState, Frame]:
        past, v = self.time_conv.step(state.past, self.space_conv(self.inner(x)))
        u = jax.nn.silu(v)
        spectrum, y = cell_step(CELL, u, *self._parts(u, self.factors(u)), state.spectrum[:, None])
        return GatedState(past, spectrum[:, 0]), self.output(x, y)

    def _scan(self, state: GatedState, x: Video, *, reset=None, readout="all") -> tuple[GatedState, Video | Frame]:
        past, v = self.time_conv.scan(state.past, self.space_conv(self.inner(x)), reset)
        u = jax.nn.silu(v)
        factors = self.factors(u)
        options = {"reset": reset, "readout": "none" if readout == "last" else "all"}
        spectrum, y = cell_scan(CELL, u, *self._parts(u, factors), state.spectrum[:, None], **options)
        after = GatedState(past, spectrum[:, 0])
        if readout == "last":  # one inverse FFT
            return after, self.output(x[:, -1], _read(after.spectrum, _last(factors), x.shape[3]))
        return after, select(self.output(x, y), readout)

    def _static(self, state: GatedState, x: Frame, steps: int, *, readout) -> tuple[GatedState, Frame]:
        """Frame by frame while the convolution still sees the past; then the gates stay, in closed form."""
        first = min(self.time_conv.taps, steps)
        state, y = self._scan(state, repeat_frame(x, first), readout=readout)
        if first == steps:
            return state, y
        past, v = self.time_conv.step(state.past, self.space_conv(self.inner(x)))
        u = jax.nn.silu(v)
        factors, spectrum = self.factors(u), state.spectrum
        decay, write = (plane[:, None] for plane in transition_and_write(factors))
        gain, frame = self.kernel(x.shape[1:3]) * decay, write * to_spectrum(u)
        power, total, cumulative = geometric(gain, steps - first)
        state = GatedState(past, total * frame + power * spectrum)
        if readout == "last":
            return state, self.output(x, _read(state.spectrum, factors, x.shape[2]))
        mean = (cumulative * frame + gain * total * spectrum) / (steps - first)  # y is linear in the spectrum
        later = self.output(x, _read(mean, factors, x.shape[2]))
        return state, (first * y + (steps - first) * later) / steps

    def factors(self, u):
        """The gates of frames u (..., H, W, C): rows (..., H) and columns (..., Wf) of each, not their product."""
        gates = self.gates(u.mean((-3, -2)), u.shape[-3:-1])
        return {**gates, "step": jax.tree.map(jax.nn.softplus, gates["step"])}

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The bound of the module's docstring, with every layer's gain for the gates and the write."""
        v = self.space_conv.bound(dense_bound(self.inner, input_bound))
        u = self.time_conv.bound(v)  # |silu(u)| <= |u|
        limits = self.gates.bound(u)
        largest = 2 * np.logaddexp(0, limits["step"])
        write = limits["write"] ** 2 * spectrum_bound(grid, float(u.max()))
        return float(max(v.max(), largest * write / (1 - self.rho * np.exp(-largest))))

    def _parts(self, u, factors):
        """Planes, gates and statics of the cell, for frames u (..., H, W, C)."""
        decay, write = transition_and_write(factors)
        planes = jnp.stack([decay, write, outer(*factors["read"])], -3)
        return planes, jnp.zeros((*u.shape[:-3], 0, self.channels), planes.dtype), self.kernel(u.shape[-3:-1])[None]

    def output(self, x, y):
        """y of frames x (..., H, W, C) and the field read at them."""
        return self.out(y.astype(x.dtype) * jax.nn.silu(self.gate(x)))


def transition_and_write(factors):
    """e^{-D} and D B, (..., H, Wf), for all channels."""
    rows, columns = factors["step"]
    total = over_columns(rows) + over_rows(columns)
    return outer(jnp.exp(-rows), jnp.exp(-columns)), total * outer(*factors["write"])


def _read(spectrum, factors, width: int):
    return to_space(outer(*factors["read"])[..., None, :, :] * spectrum, width)


def _last(factors):
    return jax.tree.map(lambda factor: factor[:, -1], factors)
