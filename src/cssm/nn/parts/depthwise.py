"""The mixers of ConvNeXt's blocks: a depthwise convolution, and recurrences of depthwise convolutions behind it.

u = the depthwise convolution of the frame, K x K, by FFT or directly, whichever is faster. Then per channel, with A and
B kernels over space, |A| < rho at every frequency, on a periodic grid:

    DepthwiseSSM     h_t = A * h_{t-1} + B * u_t
    GatedSSM         h_t = (1 - z_t) (A * h_{t-1}) + z_t (B * c_t), y_t = o_t h_t; z, o = sigmoid(Dense u), c = Dense u
    DepthwiseSSM3D   h_t = sum_j A_j * h_{t-1-j} + sum_j B_j * u_{t-j}, j < taps, sum_j |A_j| < rho

With A = 0, B the identity (and B_0, of those over time), y is u: such a block is that of the plain ConvNeXt.

Bounds. |S_t| <= max|B U| / (1 - rho) per frequency for the first and the third; for GatedSSM the Euclidean norm of a
frame is at most max|B * c| / (1 - rho), because |1 - z| < 1 and |A * h| <= rho |h|.
Source: 000 sections 2, 6; docs/math.md section 6.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, HalfSpectrum, SpectralState, Video
from cssm.ops import fft_conv2d, kernel_spectrum, stable_spectrum
from cssm.ops.cell import cell_scan, cell_step, filtered, system
from cssm.ops.scan.geometric import geometric
from cssm.ops.spectral import spectral_zero_state, to_space, to_spectrum

from ..mixer import Control, Mixer, select
from ..parameter import RecurrenceParam
from ..shared.bounds import dense_bound, spectrum_bound
from ..shared.frames import scan_frames
from .dense import Dense

BOUNDARIES = ("zero", "circular")
RHO = 0.999


class Depthwise(Control):
    """y = b + a K x K kernel per channel, correlated with every frame (as PyTorch's conv2d).

    Args:
      channels: C. kernel_size: K, odd. bias: whether b is there. boundary: zero or circular.

    >>> Depthwise(4, 7, rngs=nnx.Rngs(0))(jnp.zeros((1, 2, 8, 8, 4))).shape
    (1, 2, 8, 8, 4)
    """

    frame_wise = True

    def __init__(
        self, channels: int, kernel_size: int = 7, *, bias: bool = True, boundary: str = "zero", rngs: nnx.Rngs
    ):
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UsageError(f"depthwise convolution: kernel_size is {kernel_size}, expected an odd number")
        if boundary not in BOUNDARIES:
            raise UsageError(f"unknown boundary {boundary!r}: use {' or '.join(BOUNDARIES)}")
        self.channels, self.boundary = channels, boundary
        self.strategy: str | None = None  # of fft_conv2d: the faster one
        shape = channels, kernel_size, kernel_size
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) / kernel_size)
        self.bias = nnx.Param(jnp.zeros((channels,))) if bias else None

    def convolved(self, x):
        """Frames (..., H, W, C)."""
        frames = x.reshape(-1, *x.shape[-3:])
        options = {"boundary": self.boundary, "strategy": self.strategy}
        y = fft_conv2d(frames, self.kernel[...][:, ::-1, ::-1].astype(x.dtype), **options).reshape(x.shape)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)

    def _mix(self, x: Video) -> Video:
        return self.convolved(x)

    def spectrum(self, grid: Grid) -> HalfSpectrum:
        """(C, H, W // 2 + 1) of the kernel, on a periodic grid."""
        return kernel_spectrum(self.kernel[...][:, ::-1, ::-1], grid)

    def bound(self, input_bound: float) -> float:
        """The largest |y|."""
        kernel, bias = np.asarray(self.kernel[...], np.float64), 0.0 if self.bias is None else np.abs(self.bias[...])
        return float((np.abs(kernel).sum((1, 2)) * input_bound + bias).max())


class DepthwiseSSM(Mixer):
    """The recurrence of ConvNeXt's `ssm` variant. An image's repeats are one more convolution, whatever their number;
    with a circular boundary all of it is one.

    Args:
      channels: C. kernel_size: K of u, A and B, odd. bias, boundary: of u.

    >>> DepthwiseSSM(4, 7, rngs=nnx.Rngs(0))(jnp.zeros((1, 2, 8, 8, 4))).shape
    (1, 2, 8, 8, 4)
    """

    closed_form = ("last",)
    static_alone = True

    def __init__(
        self, channels: int, kernel_size: int = 7, *, bias: bool = False, boundary: str = "zero", rngs: nnx.Rngs
    ):
        self.channels = channels
        self.conv = Depthwise(channels, kernel_size, bias=bias, boundary=boundary, rngs=rngs)
        self.recurrence_kernel = RecurrenceParam(_small(channels, kernel_size, rngs))
        self.input_kernel = nnx.Param(_identity(channels, kernel_size) + _small(channels, kernel_size, rngs))

    def pass_on(self) -> None:
        """Make y the u of the frame: A becomes 0, B the identity."""
        self.recurrence_kernel[...] = jnp.zeros_like(self.recurrence_kernel[...])
        self.input_kernel[...] = _identity(self.channels, self.input_kernel[...].shape[-1])

    def spectra(self, grid: Grid) -> tuple[HalfSpectrum, HalfSpectrum]:
        """A, |A| < rho, and B."""
        gain = stable_spectrum(kernel_spectrum(self.recurrence_kernel[...], grid), RHO)
        return gain, kernel_spectrum(self.input_kernel[...], grid)

    def init_state(self, batch: int, grid: Grid) -> SpectralState:
        return spectral_zero_state(batch, self.channels, grid)

    def _step(self, state: SpectralState, x: Frame) -> tuple[SpectralState, Frame]:
        after, y = cell_step(
            system(), self.conv.convolved(x), *self._parts(x, self.spectra(x.shape[1:3])), state[:, None]
        )
        return after[:, 0], y

    def _scan(self, state: SpectralState, x: Video, *, reset=None, readout="all") -> tuple[SpectralState, Any]:
        options = {"reset": reset, "readout": "none" if readout == "last" else readout}
        parts = self._parts(x, self.spectra(x.shape[2:4]))
        after, y = cell_scan(system(), self.conv.convolved(x), *parts, state[:, None], **options)
        return after[:, 0], to_space(after[:, 0], x.shape[3]) if readout == "last" else y

    def _static(self, state: SpectralState | None, x: Frame, steps: int) -> tuple[SpectralState, Frame]:
        """S_T = A^T S_0 + G_T B U: one step of the system (A^T, G_T B), of (A^T, G_T B D) where u is D X. With no past
        y is x through one filter, and the state a transform that is left out where nothing reads it."""
        conv, grid = self.conv, x.shape[1:3]
        gain, write = self.spectra(grid)
        power, total, _ = geometric(gain, steps)
        write = total * write
        if conv.boundary == "zero":
            return self._through(state, conv.convolved(x), power, write)
        after, y = self._through(state, x, power, write * conv.spectrum(grid))
        if conv.bias is None:
            return after, y
        constant = conv.bias[...] * write[:, 0, 0].real  # the bias, through the same filter
        return after.at[:, :, 0, 0].add(constant * (grid[0] * grid[1])), y + constant.astype(y.dtype)

    def _through(self, state, x, power, write):
        """The state and y after one step of S <- power S + write X."""
        if state is None:
            return write * to_spectrum(x), filtered(x[:, None], write)[:, 0]
        after, y = cell_step(system(), x, *self._parts(x, (power, write)), state[:, None])
        return after[:, 0], y

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The bound of the module's docstring."""
        written = np.abs(np.asarray(self.spectra(grid)[1])).max() * spectrum_bound(grid, self.conv.bound(input_bound))
        return float(written / (1 - RHO))

    def _parts(self, x, spectra):
        """Planes, gates and statics of the cell."""
        *lead, height, width, _ = x.shape
        return jnp.zeros((*lead, 0, height, width // 2 + 1)), jnp.zeros((*lead, 0, self.channels)), jnp.stack(spectra)


class GatedSSM(Mixer):
    """The recurrence of ConvNeXt's `gated` variant (minGRU): gates per pixel, so frame by frame.

    Args: as `DepthwiseSSM`.

    >>> GatedSSM(4, 7, rngs=nnx.Rngs(0))(jnp.zeros((1, 2, 8, 8, 4))).shape
    (1, 2, 8, 8, 4)
    """

    def __init__(
        self, channels: int, kernel_size: int = 7, *, bias: bool = False, boundary: str = "zero", rngs: nnx.Rngs
    ):
        self.channels = channels
        self.system = DepthwiseSSM(channels, kernel_size, bias=bias, boundary=boundary, rngs=rngs)
        self.update, self.candidate, self.output = (Dense(channels, channels, rngs=rngs) for _ in range(3))

    def init_state(self, batch: int, grid: Grid) -> Frame:
        return jnp.zeros((batch, *grid, self.channels), jnp.float32)

    def _step(self, state: Frame, x: Frame) -> tuple[Frame, Frame]:
        state, y = self._scan(state, x[:, None])
        return state, y[:, 0]

    def _scan(self, state: Frame, x: Video, *, reset=None, readout="all") -> tuple[Frame, Video | Frame]:
        u = self.system.conv.convolved(x)
        gain, write = self.system.spectra(x.shape[2:4])
        update, output = jax.nn.sigmoid(self.update(u)), jax.nn.sigmoid(self.output(u))
        written = update * filtered(self.candidate(u), write)

        def advance(h, now):
            update, written = now
            h = (1 - update) * filtered(h[:, None], gain)[:, 0] + written
            return h, h

        state, h = scan_frames(advance, state, (update, written), reset)
        return state, select(output * h, readout)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The bound of the module's docstring: no pixel is larger than the norm of its frame."""
        candidate = dense_bound(self.candidate, self.system.conv.bound(input_bound)).max() * np.sqrt(grid[0] * grid[1])
        return float(np.abs(np.asarray(self.system.spectra(grid)[1])).max() * candidate / (1 - RHO))


class PastState(NamedTuple):
    hidden: SpectralState  # b taps c h wf, the last first
    inputs: SpectralState


class DepthwiseSSM3D(Mixer):
    """The recurrence of ConvNeXt's `conv3d` variants: kernels over space and past frames.

    Args:
      channels: C. kernel_size: (K_h, K_w, K_t) of A and B. conv_size: K of u, or None for u = x. bias, boundary: of u.

    >>> DepthwiseSSM3D(4, (3, 3, 3), rngs=nnx.Rngs(0))(jnp.zeros((1, 2, 8, 8, 4))).shape
    (1, 2, 8, 8, 4)
    """

    def __init__(
        self, channels: int, kernel_size: tuple[int, int, int] = (3, 3, 3), *, conv_size: int | None = 7,
        bias: bool = False, boundary: str = "zero", rngs: nnx.Rngs,
    ):  # fmt: skip
        if min(kernel_size) < 1 or any(k % 2 == 0 for k in kernel_size[:2]):
            raise UsageError(f"kernels over time: size {kernel_size}, expected odd K_h, K_w and K_t of at least 1")
        self.channels, self.taps = channels, kernel_size[2]
        options = {"bias": bias, "boundary": boundary, "rngs": rngs}
        self.conv = None if conv_size is None else Depthwise(channels, conv_size, **options)
        shape = self.taps, channels, *kernel_size[:2]
        small = lambda: 0.02 * jax.random.normal(rngs.params(), shape)  # noqa: E731
        self.recurrence_kernel = RecurrenceParam(small())
        middle = kernel_size[0] // 2, kernel_size[1] // 2
        self.input_kernel = nnx.Param(small().at[0, :, middle[0], middle[1]].add(1.0))

    def pass_on(self) -> None:
        """Make y the u of the frame: every A_j becomes 0, B_0 the identity, the other B_j 0."""
        self.recurrence_kernel[...] = jnp.zeros_like(self.recurrence_kernel[...])
        height, width = self.input_kernel[...].shape[-2:]
        kernel = jnp.zeros_like(self.input_kernel[...])
        self.input_kernel[...] = kernel.at[0, :, height // 2, width // 2].set(1.0)

    def spectra(self, grid: Grid):
        """A_j, sum_j |A_j| < rho, and B_j: (taps, C, H, Wf)."""
        gain = stable_spectrum(kernel_spectrum(self.recurrence_kernel[...], grid), RHO / self.taps)
        return gain, kernel_spectrum(self.input_kernel[...], grid)

    def init_state(self, batch: int, grid: Grid) -> PastState:
        zeros = jnp.zeros((batch, self.taps, self.channels, grid[0], grid[1] // 2 + 1), jnp.complex64)
        return PastState(zeros, zeros[:, 1:])

    def _step(self, state: PastState, x: Frame) -> tuple[PastState, Frame]:
        state, y = self._scan(state, x[:, None])
        return state, y[:, 0]

    def _scan(self, state: PastState, x: Video, *, reset=None, readout="all") -> tuple[PastState, Video | Frame]:
        gain, write = self.spectra(x.shape[2:4])
        u = x if self.conv is None else self.conv.convolved(x)

        def advance(state, u):
            inputs = jnp.concatenate([to_spectrum(u)[:, None], state.inputs], 1)
            new = (gain * state.hidden).sum(1) + (write * inputs).sum(1)
            after = PastState(jnp.concatenate([new[:, None], state.hidden[:, :-1]], 1), inputs[:, :-1])
            return after, to_space(new, x.shape[3]) if readout != "last" else None

        state, y = scan_frames(advance, state, u, reset)
        if readout == "last":
            return state, to_space(state.hidden[:, 0], x.shape[3])
        return state, select(y, readout)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The bound of the module's docstring; inputs too."""
        seen = spectrum_bound(grid, input_bound if self.conv is None else self.conv.bound(input_bound))
        written = np.abs(np.asarray(self.spectra(grid)[1])).sum(0).max() * seen
        return float(max(seen, written / (1 - RHO)))


def _small(channels: int, kernel_size: int, rngs: nnx.Rngs) -> Float[jax.Array, "c k l"]:
    return 0.02 * jax.random.normal(rngs.params(), (channels, kernel_size, kernel_size))


def _identity(channels: int, kernel_size: int) -> Float[jax.Array, "c k l"]:
    return jnp.zeros((channels, kernel_size, kernel_size)).at[:, kernel_size // 2, kernel_size // 2].set(1.0)
