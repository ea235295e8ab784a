"""ConvS5: a diagonal complex state per position, written and read by convolutions over space.

S_t = e^z S_{t-1} + ((e^z - 1) / A) (B * x_t), z = dt A; y_t = 2 Re(C * S_t) + D x_t; P = N / 2 modes per position.
* is convolution with k x k kernels (zero boundary), B: C -> P and C: P -> C complex. A = -exp(a) + i b starts as
HiPPO-N, dt is learned per mode. |e^z| < 1 whatever a and dt, so that |S_t| <= max|w| / (1 - |e^z|) for the write w:
bounded by construction. The state itself does not spread; space is seen through B and C. y is linear in x.

Source: docs/math.md section 3; Smith et al. 2023, Convolutional state space models for long-range spatiotemporal
modeling (without the ResNet block that follows the layer there).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Complex, Frame, Grid, Video
from cssm.ops import linear_scan
from cssm.shared import hippo

from ..mixer import MIXERS, Mixer, select
from ..parameter import RecurrenceParam
from ..shared import ssm
from ..shared.wide import wide


class ConvS5State(NamedTuple):
    modes: Complex[Any, "b h w m"]


@MIXERS.register("convs5")
class ConvS5(Mixer):
    """Diagonal state space over time with convolutions over space for input and output.

    Args:
      channels: C. d_state: N real states per position, held as N / 2 complex modes. kernel_size: taps of the input
        and the output kernel. dt_min, dt_max: frames per step, log-uniform between these at the start.

    >>> from flax import nnx
    >>> ConvS5(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    takes_dt = time_invariant = True
    closed_form = ("last", "mean")

    def __init__(
        self, channels: int, *, d_state: int = 32, kernel_size: int = 3, dt_min: float = 0.01, dt_max: float = 0.5,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        ssm.check_state_size("convs5", d_state)
        ssm.check_steps("convs5", dt_min, dt_max)
        if kernel_size < 1:
            raise UsageError(f"convs5: kernel_size is {kernel_size}, expected at least one tap")
        self.channels, self.modes = channels, d_state // 2
        keys = jax.random.split(rngs.params(), 4)
        eigenvalues = hippo.diagonal("legs", d_state)[0]
        self.log_A_real = RecurrenceParam(jnp.asarray(np.log(-eigenvalues.real), jnp.float32))
        self.A_imag = RecurrenceParam(jnp.asarray(eigenvalues.imag, jnp.float32))
        self.log_step = RecurrenceParam(ssm.log_uniform(keys[0], (self.modes,), dt_min, dt_max))
        taps = (kernel_size, kernel_size)
        self.B = RecurrenceParam(
            ssm.complex_normal(keys[1], (*taps, channels, self.modes), 1 / (kernel_size**2 * channels))
        )
        self.C = RecurrenceParam(
            ssm.complex_normal(keys[2], (*taps, self.modes, channels), 1 / (kernel_size**2 * d_state))
        )
        self.D = RecurrenceParam(jax.random.normal(keys[3], (channels,)))

    def _discrete(self):
        """z (P,) and the input kernel (K, K, C, P), discretised."""
        A = lax.complex(-jnp.exp(ssm.real(self.log_A_real)), ssm.real(self.A_imag))
        z, gain = ssm.zoh(A, ssm.real(self.log_step))
        return z, gain * ssm.compound(self.B)

    def system(self) -> ssm.Modes:
        """z, and what writes and reads the modes."""
        z, kernel = self._discrete()
        output, skip = ssm.real(self.C), ssm.real(self.D)
        joined = jnp.concatenate([kernel.real, kernel.imag], -1)
        read_kernel = 2 * jnp.concatenate([output[0], -output[1]], -2)

        def write(x):
            return tuple(jnp.split(_convolve(x, joined), 2, -1))

        def read(state, x):
            return _convolve(jnp.concatenate(state, -1), read_kernel) + skip * x

        return ssm.Modes(z, write, read)

    def transition(self, grid: Grid):
        """(N / 2, 1, 1): e^z, the factor of every mode per frame, the same at every position."""
        return jnp.exp(self._discrete()[0])[:, None, None]

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The largest |S| that an input |x| <= input_bound can reach: max_p sum |B_bar_p| / (1 - |e^z_p|), all taps."""
        z, kernel = self._discrete()
        return ssm.modes_bound(z, jnp.abs(kernel).sum((0, 1, 2)), input_bound)

    def init_state(self, batch: int, grid: Grid) -> ConvS5State:
        return ConvS5State(jnp.zeros((batch, *grid, self.modes), jnp.complex64))

    def _step(self, state: ConvS5State, x: Frame, dt=None) -> tuple[ConvS5State, Frame]:
        modes, y = ssm.step(self.system(), state.modes, x, dt)
        return ConvS5State(modes), y

    def _scan(
        self, state: ConvS5State, x: Video, *, reset=None, readout="all", dt=None
    ) -> tuple[ConvS5State, Video | Frame]:
        """dt (B, T): the state decays by exp(dt z) before each frame; "last" and "mean" cost one output convolution."""
        (z, write, read), frames = self.system(), wide(x)
        factor = jnp.exp(z if dt is None else wide(dt)[..., None, None, None] * z)
        # the convolutions take the whole clip: inside a loop XLA runs them 10 times slower on CPU
        modes = linear_scan(factor, lax.complex(*write(frames)), state.modes, reset=reset)
        *shown, frame = (select(v, readout) for v in (modes.real, modes.imag, frames))
        y = read(tuple(shown), frame)
        return ConvS5State(modes[:, -1]), y.astype(x.dtype)

    def _static(self, state: ConvS5State, x: Frame, steps: int, *, readout) -> tuple[ConvS5State, Frame]:
        modes, y = ssm.static(self.system(), state.modes, x, steps, readout=readout)
        return ConvS5State(modes), y


def _convolve(x, kernel):
    """Zero boundary: x (..., H, W, C) and kernel (K, K, C, P) give (..., H, W, P)."""
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": "highest"}
    x, kernel = (v.astype(jnp.result_type(x, kernel)) for v in (x, kernel))
    y = lax.conv_general_dilated(x.reshape(-1, *x.shape[-3:]), kernel, (1, 1), "SAME", **options)
    return y.reshape(*x.shape[:-1], -1)
