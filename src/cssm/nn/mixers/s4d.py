"""S4D: a diagonal state space per channel over time, at every position, parameters shared over space.

S_t = e^z S_{t-1} + ((e^z - 1) / A) B x_t, z = dt A, with n = N / 2 conjugate pairs per channel (zero-order hold);
y_t = Dense(GELU(2 Re(C S_t) + D x_t)): GELU and a Dense over channels mix what the state spaces keep apart, as in S4's
layer. A = -exp(a) + i b, so |e^z| < 1 and |S_t| <= max|x| |B_bar| / (1 - |e^z|): bounded by construction.

A clip is run as matrix products over chunks of 64 frames; with resets or dt, frame by frame.

Source: docs/math.md section 3; Gu et al. 2022, On the parameterization and initialization of diagonal state space
models.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, Video
from cssm.ops.s4 import diagonal
from cssm.shared.hippo import INITS, initial_parameters

from ..mixer import MIXERS, Mixer, select
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared import ssm, ssm_channels
from ..shared.wide import wide


class S4DState(NamedTuple):
    modes: Float[Any, "b c m h w"]


@MIXERS.register("s4d")
class S4D(Mixer):
    """Diagonal state space per channel over time, per position.

    Args:
      channels: C. d_state: N real states per channel (real parts of N / 2 modes, then imaginary parts). init: of A,
        as in `S4` (legs, lin, inv, ...). dt_min, dt_max: frames per step, log-uniform between these at the start;
        memories last about 2 / dt frames.

    >>> from flax import nnx
    >>> S4D(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    takes_dt = time_invariant = True
    closed_form = ("last",)

    def __init__(
        self, channels: int, *, d_state: int = 16, init: str = "legs", dt_min: float = 0.01, dt_max: float = 0.5,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        ssm.check_state_size("s4d", d_state)
        ssm.check_steps("s4d", dt_min, dt_max)
        if init not in INITS:
            raise UsageError(f"s4d: unknown init {init!r}, use {', '.join(INITS)}")
        self.channels, self.d_state = channels, d_state
        keys = jax.random.split(rngs.params(), 3)
        initial = initial_parameters("s4d", init, d_state)
        each = lambda name: RecurrenceParam(jnp.stack([jnp.asarray(initial[name], jnp.float32)] * channels))  # noqa: E731
        self.log_A_real, self.A_imag = each("log_A_real"), each("A_imag")
        self.B = RecurrenceParam(jnp.moveaxis(each("B")[...], -1, 0))
        self.C = RecurrenceParam(ssm.complex_normal(keys[0], (channels, d_state // 2), 1.0))
        self.D = RecurrenceParam(jax.random.normal(keys[1], (channels,)))
        self.log_step = RecurrenceParam(ssm.log_uniform(keys[2], (channels,), dt_min, dt_max))
        self.out = Dense(channels, channels, rngs=rngs)

    def _log_transition(self):
        """z = dt A, (C, N / 2)."""
        A = lax.complex(-jnp.exp(ssm.real(self.log_A_real)), ssm.real(self.A_imag))
        return jnp.exp(ssm.real(self.log_step))[:, None] * A

    def system(self) -> diagonal.Diagonal:
        """The state spaces of all channels, discretised."""
        A = lax.complex(-jnp.exp(ssm.real(self.log_A_real)), ssm.real(self.A_imag))
        step = jnp.exp(ssm.real(self.log_step))
        return diagonal.discretise(A, ssm.compound(self.B), ssm.compound(self.C)[None], step, "zoh")

    def transition(self, grid: Grid):
        """(C N / 2, 1, 1): e^z, the factor of every mode per frame, the same at every position."""
        return jnp.exp(self._log_transition()).reshape(-1, 1, 1)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The largest |S| that an input |x| <= input_bound can reach: max |B_bar| / (1 - |e^z|)."""
        z = self._log_transition()
        return ssm.modes_bound(z, jnp.abs(self.system().B), input_bound)

    def init_state(self, batch: int, grid: Grid) -> S4DState:
        return S4DState(jnp.zeros((batch, self.channels, self.d_state, *grid), jnp.float32))

    def _step(self, state: S4DState, x: Frame, dt=None) -> tuple[S4DState, Frame]:
        step, frame = ssm_channels.one_step(self.system(), ssm.real(self.D)), wide(x)
        factor = None if dt is None else ssm_channels.irregular(dt, self._log_transition())
        modes = ssm_channels.advance(step, state.modes, frame, factor)
        return S4DState(modes), self.output(ssm_channels.read(step, modes, frame).astype(x.dtype))

    def _scan(self, state: S4DState, x: Video, *, reset=None, readout="all", dt=None) -> tuple[S4DState, Video | Frame]:
        """dt (B, T): the state decays by exp(dt z) before each frame; the input enters as at dt = 1."""
        linear = "last" if readout == "last" else "all"  # GELU: the mean needs every frame
        system, skip = self.system(), ssm.real(self.D)
        if reset is None and dt is None:
            modes, y = ssm_channels.scan(system, skip, state.modes, x, readout=linear)
        else:
            options = {"reset": reset, "readout": linear, "dt": dt, "log_transition": self._log_transition()}
            modes, y = ssm_channels.scan_stepwise(system, skip, state.modes, x, **options)
        y = self.output(y.astype(x.dtype))
        return S4DState(modes), y if linear == "last" else select(y, readout)

    def _static(self, state: S4DState, x: Frame, steps: int) -> tuple[S4DState, Frame]:
        frame, system = wide(x), self.system()
        modes = ssm_channels.static(system, state.modes, frame, steps)
        y = ssm_channels.read(ssm_channels.one_step(system, ssm.real(self.D)), modes, frame)
        return S4DState(modes), self.output(y.astype(x.dtype))

    def output(self, y):
        """y of what the state spaces give, (..., H, W, C)."""
        return self.out(jax.nn.gelu(y))
