"""LRU: a linear recurrent unit over time, at every position, with parameters shared over space. It does not see space.

S_t = L S_{t-1} + g B x_t, y_t = Re(C S_t) + D x_t; L = exp(-exp(nu) + i exp(theta)) diagonal, P modes, B, C complex,
g = sqrt(1 - |L|^2) keeps the variance of the state that of B x for white input. |L| < 1 whatever nu, so that
|S_t| <= |L| |S_{t-1}| + g |B x_t| gives |S_t| <= max|g B x| / (1 - |L|): bounded by construction. y is linear in x.

Source: docs/math.md section 3; Orvieto et al. 2023, Resurrecting recurrent neural networks for long sequences (g is
learned there, from this initial value; here it stays a function of L).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Complex, Frame, Grid, Video

from ..mixer import MIXERS, Mixer
from ..parameter import RecurrenceParam
from ..shared import ssm


class LRUState(NamedTuple):
    modes: Complex[Any, "b h w m"]


@MIXERS.register("lru")
class LRU(Mixer):
    """Linear recurrent unit over time, per position.

    Args:
      channels: C. d_state: P modes, complex. r_min, r_max: |L| starts uniform on that ring of the disc (in area).
      max_phase: the phase of L starts uniform in (0, max_phase).

    >>> from flax import nnx
    >>> LRU(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    takes_dt = time_invariant = pools = True
    closed_form = ("last", "mean")

    def __init__(
        self, channels: int, *, d_state: int = 32, r_min: float = 0.5, r_max: float = 0.99, max_phase: float = 6.28,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        if d_state < 1:
            raise UsageError(f"lru: d_state is {d_state}, expected at least one mode")
        if not 0 <= r_min < r_max < 1:
            raise UsageError(f"lru: r_min {r_min}, r_max {r_max}: expected 0 <= r_min < r_max < 1")
        if max_phase <= 0:
            raise UsageError(f"lru: max_phase is {max_phase}, expected a positive angle")
        self.channels, self.d_state = channels, d_state
        keys = jax.random.split(rngs.params(), 5)
        area = jax.random.uniform(keys[0], (d_state,), minval=max(r_min, 1e-3) ** 2, maxval=r_max**2)
        self.nu = RecurrenceParam(jnp.log(-0.5 * jnp.log(area)))
        self.theta = RecurrenceParam(
            jnp.log(jax.random.uniform(keys[1], (d_state,), minval=1e-3, maxval=1) * max_phase)
        )
        self.B = RecurrenceParam(ssm.complex_normal(keys[2], (d_state, channels), 1 / channels))
        self.C = RecurrenceParam(ssm.complex_normal(keys[3], (channels, d_state), 2 / d_state))
        self.D = RecurrenceParam(jax.random.normal(keys[4], (channels,)))

    def system(self) -> ssm.Modes:
        """L, and what writes and reads the modes."""
        rate = jnp.exp(ssm.real(self.nu))
        scale = jnp.sqrt(-jnp.expm1(-2 * rate))  # sqrt(1 - |L|^2)
        z = lax.complex(-rate, jnp.exp(ssm.real(self.theta)))
        weight = scale[:, None] * ssm.compound(self.B)
        return ssm.Modes(z, *ssm.matmul_modes(weight, ssm.compound(self.C), ssm.real(self.D)))

    def transition(self, grid: Grid):
        """(P, 1, 1): L, the factor of every mode per frame, the same at every position."""
        return jnp.exp(self.system().log_transition)[:, None, None]

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The largest |S| that an input |x| <= input_bound can reach: max_p g_p sum_c |B_pc| / (1 - |L_p|)."""
        z = self.system().log_transition
        scale = jnp.sqrt(-jnp.expm1(2 * z.real))
        return ssm.modes_bound(z, scale * jnp.abs(ssm.compound(self.B)).sum(1), input_bound)

    def init_state(self, batch: int, grid: Grid) -> LRUState:
        return LRUState(jnp.zeros((batch, *grid, self.d_state), jnp.complex64))

    def _step(self, state: LRUState, x: Frame, dt=None) -> tuple[LRUState, Frame]:
        modes, y = ssm.step(self.system(), state.modes, x, dt)
        return LRUState(modes), y

    def _scan(self, state: LRUState, x: Video, *, reset=None, readout="all", dt=None) -> tuple[LRUState, Video | Frame]:
        """dt (B, T): the state decays by L^dt = exp(dt (-exp nu + i exp theta)) before each frame."""
        modes, y = ssm.scan(self.system(), state.modes, x, reset=reset, readout=readout, dt=dt)
        return LRUState(modes), y

    def _static(self, state: LRUState, x: Frame, steps: int, *, readout) -> tuple[LRUState, Frame]:
        modes, y = ssm.static(self.system(), state.modes, x, steps, readout=readout)
        return LRUState(modes), y

    def _pooled(self, state: LRUState, x: Video, *, readout):
        """The spatial mean of `scan`'s output, (B, T, C) or (B, C): all is linear, so the mean frame is run instead."""
        mean = LRUState(state.modes.mean((1, 2), keepdims=True))
        return self._scan(mean, x.mean((2, 3), keepdims=True), readout=readout)[1][..., 0, 0, :]
