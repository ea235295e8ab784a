"""S4: a diagonal minus low rank state space per channel over time, at every position, parameters shared over space.

S_t = A_bar S_{t-1} + B_bar x_t, A = diag(L) - P P^*, Re L < 0, over N / 2 conjugate pairs per channel, by the bilinear
rule: A_bar = (1 - dt A / 2)^-1 (1 + dt A / 2), B_bar = (1 - dt A / 2)^-1 dt B; y_t = Dense(GELU(2 Re(C S_t) + D x_t)).
GELU and a Dense over channels mix what the state spaces keep apart, as in S4's layer.

Bounded by construction: A + A^* = 2 Re L - 2 P P^* < 0, and for s = (1 - dt A / 2) v, |A_bar s|^2
= |(1 + dt A / 2) v|^2 = |s|^2 + dt v^*(A + A^*) v < |s|^2: A_bar shrinks the 2-norm. Hence |A_bar^J| < 1 and, with
the series in blocks of J frames, |S_t| <= max|x| sum_{j<J} |A_bar^j B_bar| / (1 - |A_bar^J|).

A clip is run as matrix products over chunks of 64 frames; with resets, frame by frame. There is no dt: A_bar is not
normal and has no cheap fractional power, and the bilinear rule at another step gives another matrix.

Source: docs/math.md section 3; Gu et al. 2022, Efficiently modeling long sequences with structured state spaces.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, Video
from cssm.ops.s4 import dplr
from cssm.shared.hippo import NPLR_INITS, initial_parameters

from ..mixer import MIXERS, Mixer, select
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared import ssm, ssm_channels
from ..shared.wide import wide


class S4State(NamedTuple):
    modes: Float[Any, "b c m h w"]


@MIXERS.register("s4")
class S4Mixer(Mixer):
    """Diagonal minus low rank state space per channel over time, per position.

    Args:
      channels: C. d_state: N real states per channel (real parts of N / 2 modes, then imaginary parts). init: of A,
        legs, legt or fourier. dt_min, dt_max: frames per step, log-uniform between these at the start;
        memories last about 2 / dt frames.

    >>> from flax import nnx
    >>> S4Mixer(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    closed_form = ("last",)

    def __init__(
        self, channels: int, *, d_state: int = 16, init: str = "legs", dt_min: float = 0.01, dt_max: float = 0.5,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        ssm.check_state_size("s4", d_state)
        ssm.check_steps("s4", dt_min, dt_max)
        if init not in NPLR_INITS:
            raise UsageError(f"s4: unknown init {init!r}, use {', '.join(NPLR_INITS)}")
        self.channels, self.d_state = channels, d_state
        keys = jax.random.split(rngs.params(), 3)
        initial = initial_parameters("s4", init, d_state)
        each = lambda name: RecurrenceParam(jnp.stack([jnp.asarray(initial[name], jnp.float32)] * channels))  # noqa: E731
        self.log_A_real, self.A_imag = each("log_A_real"), each("A_imag")
        self.B = RecurrenceParam(jnp.moveaxis(each("B")[...], -1, 0))
        self.P = RecurrenceParam(jnp.stack([jnp.asarray(initial["P"], jnp.float32)] * channels, 1))  # r c n 2
        self.C = RecurrenceParam(ssm.complex_normal(keys[0], (channels, d_state // 2), 1.0))
        self.D = RecurrenceParam(jax.random.normal(keys[1], (channels,)))
        self.log_step = RecurrenceParam(ssm.log_uniform(keys[2], (channels,), dt_min, dt_max))
        self.out = Dense(channels, channels, rngs=rngs)

    def system(self) -> dplr.Dplr:
        """The state spaces of all channels, discretised."""
        A = lax.complex(-jnp.exp(ssm.real(self.log_A_real)), ssm.real(self.A_imag))
        step = jnp.exp(ssm.real(self.log_step))
        low_rank = ssm.real(self.P)
        P, B, C = lax.complex(low_rank[..., 0], low_rank[..., 1]), ssm.compound(self.B), ssm.compound(self.C)[None]
        return dplr.discretise(A, P, B, C, step)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The largest 2-norm of a channel's state that |x| <= input_bound can reach; J = 64 in the bound above."""
        return ssm_channels.bound(self.system(), input_bound)

    def init_state(self, batch: int, grid: Grid) -> S4State:
        return S4State(jnp.zeros((batch, self.channels, self.d_state, *grid), jnp.float32))

    def _step(self, state: S4State, x: Frame) -> tuple[S4State, Frame]:
        step, frame = ssm_channels.one_step(self.system(), ssm.real(self.D)), wide(x)
        modes = ssm_channels.advance(step, state.modes, frame)
        return S4State(modes), self.output(ssm_channels.read(step, modes, frame).astype(x.dtype))

    def _scan(self, state: S4State, x: Video, *, reset=None, readout="all") -> tuple[S4State, Video | Frame]:
        linear = "last" if readout == "last" else "all"  # GELU: the mean needs every frame
        system, skip = self.system(), ssm.real(self.D)
        if reset is None:
            modes, y = ssm_channels.scan(system, skip, state.modes, x, readout=linear)
        else:
            modes, y = ssm_channels.scan_stepwise(system, skip, state.modes, x, reset=reset, readout=linear)
        y = self.output(y.astype(x.dtype))
        return S4State(modes), y if linear == "last" else select(y, readout)

    def _static(self, state: S4State, x: Frame, steps: int) -> tuple[S4State, Frame]:
        frame, system = wide(x), self.system()
        modes = ssm_channels.static(system, state.modes, frame, steps)
        y = ssm_channels.read(ssm_channels.one_step(system, ssm.real(self.D)), modes, frame)
        return S4State(modes), self.output(y.astype(x.dtype))

    def output(self, y):
        """y of what the state spaces give, (..., H, W, C)."""
        return self.out(jax.nn.gelu(y))
