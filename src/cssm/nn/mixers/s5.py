"""S5: one state space of many inputs and outputs over time, at every position, parameters shared over space.

S_t = e^z S_{t-1} + ((e^z - 1) / A) B x_t, z = dt A, diagonal, P = N / 2 conjugate pairs; y_t = 2 Re(C S_t) + D x_t.
A = -exp(a) + i b starts as the normal part of HiPPO-LegS (HiPPO-N), dt is learned per mode. |e^z| < 1 whatever a and
dt, so that |S_t| <= max|B_bar x| / (1 - |e^z|), B_bar = ((e^z - 1) / A) B: bounded by construction. y is linear in x.

Source: docs/math.md section 3; Smith et al. 2022, Simplified state space layers for sequence modeling.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cssm.core.typing import Complex, Frame, Grid, Video
from cssm.shared import hippo

from ..mixer import MIXERS, Mixer
from ..parameter import RecurrenceParam
from ..shared import ssm


class S5State(NamedTuple):
    modes: Complex[Any, "b h w m"]


@MIXERS.register("s5")
class S5(Mixer):
    """Multi-input, multi-output diagonal state space over time, per position.

    Args:
      channels: C. d_state: N real states, held as N / 2 complex modes. dt_min, dt_max: frames per step, log-uniform
        between these at the start; memories last about 2 / dt frames.

    >>> from flax import nnx
    >>> S5(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    takes_dt = time_invariant = pools = True
    closed_form = ("last", "mean")

    def __init__(self, channels: int, *, d_state: int = 64, dt_min: float = 0.01, dt_max: float = 0.5, rngs: nnx.Rngs):
        ssm.check_state_size("s5", d_state)
        ssm.check_steps("s5", dt_min, dt_max)
        self.channels, self.modes = channels, d_state // 2
        keys = jax.random.split(rngs.params(), 4)
        eigenvalues = hippo.diagonal("legs", d_state)[0]
        self.log_A_real = RecurrenceParam(jnp.asarray(np.log(-eigenvalues.real), jnp.float32))
        self.A_imag = RecurrenceParam(jnp.asarray(eigenvalues.imag, jnp.float32))
        self.log_step = RecurrenceParam(ssm.log_uniform(keys[0], (self.modes,), dt_min, dt_max))
        # real Gaussian matrices in the (unitary) eigenbasis of HiPPO-N are complex Gaussian
        self.B = RecurrenceParam(ssm.complex_normal(keys[1], (self.modes, channels), 1 / channels))
        self.C = RecurrenceParam(ssm.complex_normal(keys[2], (channels, self.modes), 1 / d_state))
        self.D = RecurrenceParam(jax.random.normal(keys[3], (channels,)))

    def _discrete(self):
        """z (P,) and B_bar (P, C)."""
        A = lax.complex(-jnp.exp(ssm.real(self.log_A_real)), ssm.real(self.A_imag))
        z, gain = ssm.zoh(A, ssm.real(self.log_step))
        return z, gain[:, None] * ssm.compound(self.B)

    def system(self) -> ssm.Modes:
        """z, and what writes and reads the modes."""
        z, weight = self._discrete()
        return ssm.Modes(z, *ssm.matmul_modes(weight, 2 * ssm.compound(self.C), ssm.real(self.D)))

    def transition(self, grid: Grid):
        """(N / 2, 1, 1): e^z, the factor of every mode per frame, the same at every position."""
        return jnp.exp(self._discrete()[0])[:, None, None]

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The largest |S| that an input |x| <= input_bound can reach: max_p sum_c |B_bar_pc| / (1 - |e^z_p|)."""
        z, weight = self._discrete()
        return ssm.modes_bound(z, jnp.abs(weight).sum(1), input_bound)

    def init_state(self, batch: int, grid: Grid) -> S5State:
        return S5State(jnp.zeros((batch, *grid, self.modes), jnp.complex64))

    def _step(self, state: S5State, x: Frame, dt=None) -> tuple[S5State, Frame]:
        modes, y = ssm.step(self.system(), state.modes, x, dt)
        return S5State(modes), y

    def _scan(self, state: S5State, x: Video, *, reset=None, readout="all", dt=None) -> tuple[S5State, Video | Frame]:
        """dt (B, T): the state decays by exp(dt z) before each frame; the input enters as at dt = 1."""
        modes, y = ssm.scan(self.system(), state.modes, x, reset=reset, readout=readout, dt=dt)
        return S5State(modes), y

    def _static(self, state: S5State, x: Frame, steps: int, *, readout) -> tuple[S5State, Frame]:
        modes, y = ssm.static(self.system(), state.modes, x, steps, readout=readout)
        return S5State(modes), y

    def _pooled(self, state: S5State, x: Video, *, readout):
        """The spatial mean of `scan`'s output, (B, T, C) or (B, C): all is linear, so the mean frame is run instead."""
        mean = S5State(state.modes.mean((1, 2), keepdims=True))
        return self._scan(mean, x.mean((2, 3), keepdims=True), readout=readout)[1][..., 0, 0, :]
