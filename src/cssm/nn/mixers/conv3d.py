"""A spatiotemporal kernel before the spectral recurrence: each frame enters through itself and the frames before it.

u_t = sum_{j < K_t} F_j x_{t-j}, F_j = rfft2 of tap j of a kernel (C, K_t, K_in, K_in) per channel; then
m = `iterations` inner steps S <- K S + u_t with K = rho z / (1 + |z|), z = rfft2(k), which are one:

    S_t = K^m S_{t-1} + G_m(K) u_t,  G_m = 1 + K + ... + K^{m-1};  y_t = Dense(irfft2(S_t)).

|K| < rho < 1 and |G_m| <= (1 - rho^m) / (1 - rho), hence |S_t| <= max|G_m u| / (1 - rho^m) <= max|u| / (1 - rho) per
frequency, with |u| <= sum|kernel| max|x^|. With K_t = 1, m = 1 and a unit kernel it is `no_gate`.
There is no dt: the input kernel is sampled at whole frames.

Source: docs/math.md sections 0, 2 and 3 (`conv3d`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Complex, Frame, Grid, HalfSpectrum, SpectralState, Video
from cssm.ops import kernel_spectrum, linear_scan, stable_spectrum
from cssm.ops.scan.geometric import geometric
from cssm.ops.spectral import spectral_zero_state, to_space, to_spectrum

from ..mixer import MIXERS, Mixer, select
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared.bounds import decay_bound, spectrum_bound
from ..shared.spectral import checked_margin, initial_kernel


class Conv3DState(NamedTuple):
    """The recurrent spectrum, and the spectra of the last K_t - 1 frames, oldest first (zeros before a reset)."""

    spectrum: SpectralState
    past: Complex[Any, "b j c h wf"]


@MIXERS.register("conv3d")
class Conv3D(Mixer):
    """The spectral recurrence behind a causal space-time convolution, several inner steps per frame.

    Args:
      channels: C. kernel_size, rho, memory, init_scale: as in `no_gate` (circular boundary).
      input_size, frames: taps of the input kernel over space and over time (K_t: this frame and K_t - 1 before it);
        init N(0, init_scale^2) and 1 at the centre of the present frame.
      iterations: inner steps m per frame, at the cost of one.

    >>> from flax import nnx
    >>> Conv3D(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    time_invariant = True
    closed_form = ("last", "mean")

    def __init__(
        self, channels: int, *, kernel_size: int = 11, input_size: int = 3, frames: int = 3, iterations: int = 1,
        rho: float = 0.999, memory: float = 0.0, init_scale: float = 0.02, rngs: nnx.Rngs,
    ):  # fmt: skip
        checked_margin("conv3d", kernel_size, rho, "circular", None)
        for option, value in (("input_size", input_size), ("frames", frames), ("iterations", iterations)):
            if value < 1:
                raise UsageError(f"conv3d: {option} is {value}, expected at least 1")
        self.channels, self.rho, self.frames, self.iterations = channels, rho, frames, iterations
        self.recurrence_kernel = initial_kernel(rngs.params(), channels, kernel_size, init_scale, memory)
        taps = init_scale * jax.random.normal(rngs.params(), (channels, frames, input_size, input_size))
        self.input_kernel = RecurrenceParam(taps.at[:, 0, input_size // 2, input_size // 2].add(1.0))
        self.out = Dense(channels, channels, rngs=rngs)

    def transition(self, grid: Grid) -> HalfSpectrum:
        """(C, H, W // 2 + 1): K^iterations, the gain of every channel and frequency per frame."""
        return self.spectra(grid)[0]

    def init_state(self, batch: int, grid: Grid) -> Conv3DState:
        past = jnp.zeros((batch, self.frames - 1, self.channels, grid[0], grid[1] // 2 + 1), jnp.complex64)
        return Conv3DState(spectral_zero_state(batch, self.channels, grid), past)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """max|G u| / (1 - |K^m|) per channel and frequency; past frames are spectra of x."""
        gain, filters = (np.abs(np.asarray(v)).astype(np.float64) for v in self.spectra(grid))
        frame = spectrum_bound(grid, input_bound)
        return max(decay_bound(filters.sum(0) * frame, gain), frame if self.frames > 1 else 0.0)

    def _step(self, state: Conv3DState, x: Frame) -> tuple[Conv3DState, Frame]:
        return self._scan(state, x[:, None], readout="last")

    def _scan(self, state: Conv3DState, x: Video, *, reset=None, readout="all") -> tuple[Conv3DState, Video | Frame]:
        state, spectra = self._run(state, to_spectrum(x), reset, self.spectra(x.shape[2:4]))
        # y is linear in the spectrum, so the mean y is the y of the mean spectrum
        shown = {"last": spectra[:, -1:], "mean": spectra.mean(1, keepdims=True)}.get(readout, spectra)
        return state, select(self.output(shown, x), readout)

    def _static(self, state: Conv3DState, x: Frame, steps: int, *, readout) -> tuple[Conv3DState, Frame]:
        """K_t frames until the input is constant, then the closed form of the rest."""
        gain, filters = self.spectra(x.shape[1:3])
        frame, first = to_spectrum(x), min(self.frames - 1, steps)
        total = jnp.zeros_like(state.spectrum)
        if first:
            state, spectra = self._run(state, jnp.repeat(frame[:, None], first, 1), None, (gain, filters))
            total = spectra.sum(1)
        if steps > first:
            power, once, cumulative = geometric(gain, steps - first)
            write = filters.sum(0) * frame
            total = total + cumulative * write + gain * once * state.spectrum
            state = Conv3DState(once * write + power * state.spectrum, state.past)
        return state, self.output(state.spectrum if readout == "last" else total / steps, x)

    def spectra(self, grid: Grid):
        """K^m (C, H, Wf), and G_m F_j (K_t, C, H, Wf)."""
        gain = stable_spectrum(kernel_spectrum(self.recurrence_kernel[...], grid), self.rho)
        power, total, _ = geometric(gain, self.iterations)
        return power, total * kernel_spectrum(jnp.moveaxis(self.input_kernel[...], 1, 0), grid)

    def _run(self, state: Conv3DState, frames, reset, spectra):
        """frames (B, T, C, H, Wf): the state after them, and the recurrent spectrum after every frame."""
        gain, filters = spectra
        write, past = _causal_filter(filters, state.past, frames, reset)
        spectrum = linear_scan(gain, write, state.spectrum, reset=reset)
        return Conv3DState(spectrum[:, -1], past), spectrum

    def output(self, spectrum, x):
        """y (..., H, W, C) of the recurrent spectrum, in the dtype of x."""
        return self.out(to_space(spectrum, x.shape[-2]).astype(x.dtype))


def _causal_filter(filters, past, frames, reset):
    """sum_j filters[j] frames[t - j] with no frame from before a reset, and the frames to remember."""
    reach, steps = past.shape[1], frames.shape[1]
    known = jnp.concatenate([past, frames], 1)
    age = None
    if reset is not None:  # frames of one segment lie between the same two resets
        age = jnp.pad(jnp.cumsum(reset, 1), [(0, 0), (reach, 0)])

    def since_reset(values, segments, now):
        return values if age is None else jnp.where((segments == now)[..., None, None, None], values, 0)

    def earlier(array, j):
        return None if array is None else array[:, reach - j : reach - j + steps]

    now = earlier(age, 0)
    write = sum(f * since_reset(earlier(known, j), earlier(age, j), now) for j, f in enumerate(filters))
    latest = None if age is None else age[:, -1:]
    return write, since_reset(known[:, steps:], None if age is None else age[:, steps:], latest)
