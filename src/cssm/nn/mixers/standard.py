"""Standard CSSM: the spectral recurrence read out as it is, with no output projection.

S_t = K S_{t-1} + x_t per channel and spatial frequency, with K = rho z / (1 + |z|), z = rfft2(k); y_t = irfft2(S_t).
|K| < rho <= 1, hence |S_t| <= max|rfft2(x)| / (1 - max|K|): bounded by construction, as `no_gate`.

Source: docs/math.md sections 2 to 4; 002 (`standard`, `StandardCSSM`).
"""

from typing import Any, NamedTuple

from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, HalfSpectrum, SpectralState, Video
from cssm.ops import kernel_spectrum, spectral_pooled, spectral_scan, spectral_static, stable_spectrum
from cssm.ops.spectral import age, spectral_zero_state, to_space, to_spectrum

from ..mixer import MIXERS, Mixer
from ..shared.bounds import decay_bound, spectrum_bound
from ..shared.spectral import checked_margin, crop, initial_kernel, pad, widen

IMPLEMENTATIONS = {"direct": None, "goom": "goom"}  # numerics: the implementation of spectral_scan


class StandardState(NamedTuple):
    spectrum: SpectralState


@MIXERS.register("standard")
class Standard(Mixer):
    """The spectral recurrence with no output projection, on ordinary complex numbers or on their logarithms.

    Args:
      channels: C. kernel_size, rho, memory, init_scale, boundary, margin, kernel_origin: as in `no_gate`.
      numerics: how `step`, `scan` and `pooled` run the recurrence: "direct", or "goom" on complex logarithms
        (ops/goom), slower and less accurate for bounded states such as these. States are ordinary numbers either way,
        and `static` is a closed form, with no recurrence.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> Standard(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    takes_dt = takes_lift = time_invariant = pools = True
    closed_form = ("last", "mean")

    def __init__(
        self, channels: int, *, kernel_size: int = 15, rho: float = 0.999, memory: float = 0.0,
        init_scale: float = 0.02, boundary: str = "circular", margin: int | None = None,
        kernel_origin: str = "center", numerics: str = "direct", rngs: nnx.Rngs,
    ):  # fmt: skip
        if numerics not in IMPLEMENTATIONS:
            raise UsageError(f"standard: unknown numerics {numerics!r}, use {' or '.join(IMPLEMENTATIONS)}")
        self.margin = checked_margin("standard", kernel_size, rho, boundary, margin)
        self.channels, self.rho, self.kernel_origin, self.numerics = channels, rho, kernel_origin, numerics
        self.recurrence_kernel = initial_kernel(rngs.params(), channels, kernel_size, init_scale, memory)

    def transition(self, grid: Grid) -> HalfSpectrum:
        """(C, H, W // 2 + 1): the gain of every channel and frequency per frame, |K| < rho, on the padded grid."""
        kernel = self.recurrence_kernel[...]
        return stable_spectrum(kernel_spectrum(kernel, widen(grid, self.margin), origin=self.kernel_origin), self.rho)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """max|S| <= H W input_bound / (1 - max|K|): a frequency of x is at most the sum of all |pixels|."""
        return decay_bound(spectrum_bound(grid, input_bound), self.transition(grid))

    def init_state(self, batch: int, grid: Grid) -> StandardState:
        return StandardState(spectral_zero_state(batch, self.channels, widen(grid, self.margin)))

    def _step(self, state: StandardState, x: Frame, dt=None) -> tuple[StandardState, Frame]:
        if self.numerics == "goom":
            return self._scan(state, x[:, None], readout="last", dt=None if dt is None else dt[:, None])
        width = x.shape[2] + self.margin
        past = age(state.spectrum, self.transition(x.shape[1:3]), dt, width)
        spectrum = past + to_spectrum(pad(x, self.margin))
        return StandardState(spectrum), crop(to_space(spectrum, width), x).astype(x.dtype)

    def _scan(
        self, state: StandardState, x: Float[Any, "b t h w r"], *, reset=None, readout="all", lift=None, dt=None
    ) -> tuple[StandardState, Video | Frame]:
        spectrum, padded = self.transition(x.shape[2:4]), pad(x, self.margin)
        if dt is not None and self.numerics == "goom":
            raise UsageError("standard: dt needs numerics='direct'; K^dt on complex logarithms is not offered")
        options = {"readout": readout, "lift": lift, "dt": dt, "implementation": IMPLEMENTATIONS[self.numerics]}
        final, y = spectral_scan(padded, spectrum, state=state.spectrum, reset=reset, **options)
        return StandardState(final), crop(y, x)

    def _static(self, state: StandardState, x: Frame, steps: int, *, readout) -> tuple[StandardState, Frame]:
        spectrum, padded = self.transition(x.shape[1:3]), pad(x, self.margin)
        final, y = spectral_static(padded, spectrum, steps, state=state.spectrum, readout=readout)
        return StandardState(final), crop(y, x)

    def _pooled(self, state: StandardState, x: Video, *, readout):
        """The spatial mean of `scan`'s output, (B, T, C) or (B, C); from the DC bin alone where that is exact."""
        if self.margin or self.numerics == "goom":  # cropping breaks the DC shortcut, which is direct
            return self._scan(state, x, readout=readout)[1].mean((-3, -2))
        return spectral_pooled(x, self.transition(x.shape[2:4]), readout=readout, state=state.spectrum)
