"""sCSSM: an ungated spectral recurrence, linear and time-invariant.

S_t = K S_{t-1} + x_t per channel and spatial frequency, with K = rho z / (1 + |z|), z = rfft2(k);
y_t = Dense(irfft2(S_t)). |K| < rho <= 1, hence |S_t| <= max|rfft2(x)| / (1 - max|K|): bounded by construction, because
|S_t| <= max|K| |S_{t-1}| + max|rfft2(x)| keeps every ball of that radius.

Source: docs/math.md sections 0 and 2; 003 Methods, section 1.1 (`no_gate`, `NoGateCSSM`).
"""

from typing import Any, NamedTuple

from flax import nnx

from cssm.core.typing import Float, Frame, Grid, HalfSpectrum, SpectralState, Video
from cssm.ops import kernel_spectrum, spectral_pooled, spectral_scan, spectral_static, stable_spectrum
from cssm.ops.spectral import age, spectral_zero_state, to_space, to_spectrum

from ..mixer import MIXERS, Mixer
from ..parts.dense import Dense
from ..shared.bounds import decay_bound, spectrum_bound
from ..shared.spectral import checked_margin, crop, initial_kernel, pad, widen


class NoGateState(NamedTuple):
    spectrum: SpectralState


@MIXERS.register("no_gate")
class NoGate(Mixer):
    """sCSSM: an ungated spectral recurrence, linear and time-invariant.

    Args:
      channels: C. kernel_size: taps K of the learned spatial kernel, init N(0, init_scale^2).
      rho: bound on the gain of every frequency. memory: gain of the identity added to the initial kernel, so that
        states persist from the start; 0 is the source's initialisation.
      boundary: "circular" (the grid is a torus), or "zero": the grid is padded by `margin` empty pixels (default
        kernel_size), run, and cropped.
      kernel_origin: "center", or "corner" to reproduce the reference code's shifted kernels (of grids at least as
        large as the kernel).

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> NoGate(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    takes_dt = takes_lift = time_invariant = pools = True
    closed_form = ("last", "mean")

    def __init__(
        self, channels: int, *, kernel_size: int = 11, rho: float = 0.999, memory: float = 0.0,
        init_scale: float = 0.02, boundary: str = "circular", margin: int | None = None,
        kernel_origin: str = "center", rngs: nnx.Rngs,
    ):  # fmt: skip
        self.margin = checked_margin("no_gate", kernel_size, rho, boundary, margin)
        self.channels, self.rho, self.kernel_origin = channels, rho, kernel_origin
        self.recurrence_kernel = initial_kernel(rngs.params(), channels, kernel_size, init_scale, memory)
        self.out = Dense(channels, channels, rngs=rngs)

    def transition(self, grid: Grid) -> HalfSpectrum:
        """(C, H, W // 2 + 1): the gain of every channel and frequency per frame, |K| < rho, on the padded grid."""
        kernel = self.recurrence_kernel[...]
        return stable_spectrum(kernel_spectrum(kernel, widen(grid, self.margin), origin=self.kernel_origin), self.rho)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """max|S| <= H W input_bound / (1 - max|K|): a frequency of x is at most the sum of all |pixels|."""
        return decay_bound(spectrum_bound(grid, input_bound), self.transition(grid))

    def init_state(self, batch: int, grid: Grid) -> NoGateState:
        return NoGateState(spectral_zero_state(batch, self.channels, widen(grid, self.margin)))

    def _step(self, state: NoGateState, x: Frame, dt=None) -> tuple[NoGateState, Frame]:
        width = x.shape[2] + self.margin
        past = age(state.spectrum, self.transition(x.shape[1:3]), dt, width)
        spectrum = past + to_spectrum(pad(x, self.margin))
        y = to_space(spectrum, width).astype(x.dtype)
        return NoGateState(spectrum), self.out(crop(y, x))

    def _scan(
        self, state: NoGateState, x: Float[Any, "b t h w r"], *, reset=None, readout="all", lift=None, dt=None
    ) -> tuple[NoGateState, Video | Frame]:
        spectrum, padded = self.transition(x.shape[2:4]), pad(x, self.margin)
        options = {"readout": readout, "lift": lift, "dt": dt}
        final, y = spectral_scan(padded, spectrum, state=state.spectrum, reset=reset, **options)
        return NoGateState(final), self.out(crop(y, x))

    def _static(self, state: NoGateState, x: Frame, steps: int, *, readout) -> tuple[NoGateState, Frame]:
        spectrum, padded = self.transition(x.shape[1:3]), pad(x, self.margin)
        final, y = spectral_static(padded, spectrum, steps, state=state.spectrum, readout=readout)
        return NoGateState(final), self.out(crop(y, x))

    def _pooled(self, state: NoGateState, x: Video, *, readout):
        """The spatial mean of `scan`'s output, (B, T, C) or (B, C), from the DC bin alone."""
        if self.margin:  # cropping breaks the DC shortcut
            return self._scan(state, x, readout=readout)[1].mean((-3, -2))
        return self.out(spectral_pooled(x, self.transition(x.shape[2:4]), readout=readout, state=state.spectrum))
