"""The recurrence of `no_gate` without the FFT: circular convolution in space with the kernel itself. Two controls.

S_t = k * S_{t-1} + x_t per channel, y_t = Dense(S_t), with k scaled down, where needed, to sum|k| <= rho < 1. A
convolution bounds |k * S| <= sum|k| max|S|, hence |S_t| <= max|x| / (1 - rho) at every pixel; and |K| <= sum|k| <= rho
at every frequency. A kernel with sum|k| <= rho is used as it is: the numbers are those of `no_gate` with K = rfft2(k)
not squashed. `realspace_seq` goes frame by frame, K^2 products per pixel; `realspace_par` is parallel over time, and
its kernels grow to the grid. With step lengths dt both go through the spectrum, since k to the power dt is no small
kernel.

Source: docs/math.md section 3; 003 Methods, section 1.1 (the mechanism: what the FFT buys).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.typing import Float, Frame, Grid, HalfSpectrum, Kernel, Video
from cssm.ops import kernel_spectrum, spectral_scan
from cssm.ops.spectral import to_spectrum

from ..mixer import MIXERS, Mixer, select
from ..parts.dense import Dense
from ..shared.bounds import decay_bound
from ..shared.in_space import convolve, folded, in_space_parallel, in_space_sequential
from ..shared.spectral import checked_margin, initial_kernel
from ..shared.wide import wide


class RealSpaceState(NamedTuple):
    memory: Float[Any, "b h w c"]


def bounded_kernel(kernel: Kernel, rho: float) -> Kernel:
    """The kernel in float32, scaled to sum|k| = rho per channel where the sum is larger."""
    kernel = wide(kernel)
    total = jnp.abs(kernel).sum((1, 2), keepdims=True)
    return kernel * (rho / jnp.maximum(total, rho))


def _step(mixer, state: RealSpaceState, x, dt):
    if dt is not None:
        return mixer._scan(state, x[:, None], readout="last", dt=dt[:, None])
    memory = wide(x) + convolve(state.memory, folded(mixer.kernel(), x.shape[1:3]))
    return RealSpaceState(memory), mixer.out(memory.astype(x.dtype))


def _scan(mixer, recurrence, state: RealSpaceState, x, reset, readout: str, dt):
    """recurrence(x, kernel, memory) gives the memory after every frame."""
    frames = wide(x)
    if dt is None:
        memory = recurrence(frames, mixer.kernel(), state.memory)
    else:
        start, gain = to_spectrum(state.memory), mixer.transition(x.shape[2:4])
        memory = spectral_scan(frames, gain, state=start, reset=reset, dt=dt)[1]
    # y is linear in the memory, so the mean y is the y of the mean memory
    return RealSpaceState(memory[:, -1]), mixer.out(select(memory, readout).astype(x.dtype))


def _state_bound(kernel, input_bound: float) -> float:
    return decay_bound(input_bound, np.abs(np.asarray(kernel, np.float64)).sum((1, 2)))


@MIXERS.register("realspace_seq")
class RealSpaceSequential(Mixer):
    """The recurrence of `no_gate` in space, frame by frame, without the FFT: a control.

    Args: channels: C. kernel_size, memory, init_scale: as in `no_gate`. rho: bound on sum|k|, hence on every gain.

    >>> from flax import nnx
    >>> RealSpaceSequential(4, kernel_size=3, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    takes_dt = time_invariant = True

    def __init__(
        self, channels: int, *, kernel_size: int = 11, rho: float = 0.999, memory: float = 0.0,
        init_scale: float = 0.02, rngs: nnx.Rngs,
    ):  # fmt: skip
        checked_margin("realspace_seq", kernel_size, rho, "circular", None)
        self.channels, self.rho = channels, rho
        self.recurrence_kernel = initial_kernel(rngs.params(), channels, kernel_size, init_scale, memory)
        self.out = Dense(channels, channels, rngs=rngs)

    def kernel(self) -> Kernel:
        """(C, K, K): the kernel of the recurrence, sum|k| <= rho."""
        return bounded_kernel(self.recurrence_kernel[...], self.rho)

    def transition(self, grid: Grid) -> HalfSpectrum:
        """(C, H, W // 2 + 1): the gain of every channel and frequency per frame, |K| <= rho."""
        return kernel_spectrum(self.kernel(), grid)

    def init_state(self, batch: int, grid: Grid) -> RealSpaceState:
        return RealSpaceState(jnp.zeros((batch, *grid, self.channels), jnp.float32))

    def _step(self, state: RealSpaceState, x: Frame, dt=None) -> tuple[RealSpaceState, Frame]:
        return _step(self, state, x, dt)

    def _scan(
        self, state: RealSpaceState, x: Video, *, reset=None, readout="all", dt=None
    ) -> tuple[RealSpaceState, Video | Frame]:
        recurrence = lambda x, kernel, memory: in_space_sequential(x, kernel, memory, reset)  # noqa: E731
        return _scan(self, recurrence, state, x, reset, readout, dt)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """max|x| / (1 - max sum|k|) at every pixel."""
        return _state_bound(self.kernel(), input_bound)


@MIXERS.register("realspace_par")
class RealSpaceParallel(Mixer):
    """The recurrence of `no_gate` in space, parallel over time by doubling, without the FFT: a control.

    log2 T convolutions of the whole clip, with kernels k, k*k, k*k*k*k, ... up to the size of the grid. A clip with
    resets goes frame by frame, as `realspace_seq`: the doubling would need other kernels on either side of each reset.

    Args: as `realspace_seq`.

    >>> from flax import nnx
    >>> RealSpaceParallel(4, kernel_size=3, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    takes_dt = time_invariant = True

    def __init__(
        self, channels: int, *, kernel_size: int = 11, rho: float = 0.999, memory: float = 0.0,
        init_scale: float = 0.02, rngs: nnx.Rngs,
    ):  # fmt: skip
        checked_margin("realspace_par", kernel_size, rho, "circular", None)
        self.channels, self.rho = channels, rho
        self.recurrence_kernel = initial_kernel(rngs.params(), channels, kernel_size, init_scale, memory)
        self.out = Dense(channels, channels, rngs=rngs)

    def kernel(self) -> Kernel:
        """(C, K, K): the kernel of the recurrence, sum|k| <= rho."""
        return bounded_kernel(self.recurrence_kernel[...], self.rho)

    def transition(self, grid: Grid) -> HalfSpectrum:
        """(C, H, W // 2 + 1): the gain of every channel and frequency per frame, |K| <= rho."""
        return kernel_spectrum(self.kernel(), grid)

    def init_state(self, batch: int, grid: Grid) -> RealSpaceState:
        return RealSpaceState(jnp.zeros((batch, *grid, self.channels), jnp.float32))

    def _step(self, state: RealSpaceState, x: Frame, dt=None) -> tuple[RealSpaceState, Frame]:
        return _step(self, state, x, dt)

    def _scan(
        self, state: RealSpaceState, x: Video, *, reset=None, readout="all", dt=None
    ) -> tuple[RealSpaceState, Video | Frame]:
        sequential = lambda x, kernel, memory: in_space_sequential(x, kernel, memory, reset)  # noqa: E731
        recurrence = in_space_parallel if reset is None else sequential
        return _scan(self, recurrence, state, x, reset, readout, dt)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """max|x| / (1 - max sum|k|) at every pixel."""
        return _state_bound(self.kernel(), input_bound)
