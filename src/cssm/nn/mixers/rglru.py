"""RG-LRU: Griffin's real-gated linear recurrent unit over time, at every position. It does not see space.

Per pixel and channel, with r_t = sigmoid(W_r x_t + b_r) and i_t = sigmoid(W_i x_t + b_i):
a_t = exp(-8 softplus(Lambda) r_t), h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t, y_t = Dense(h_t). The gates see the
frame alone, so the recurrence is linear. The root keeps the variance of h that of i x, for white i x.

|h_t| <= M = max|i x| sqrt((1 + a) / (1 - a)) by induction, a the largest decay: a_t M + sqrt(1 - a_t^2) max|i x| <= M
is M >= max|i x| sqrt((1 + a_t) / (1 - a_t)), which grows with a_t. a < 1, as |x| <= X holds r_t above
sigmoid(-sum|W_r| X - |b_r|).

The root is taken in parts, for its slope is infinite at a = 1 where that of r is 0: with s = 8 softplus(Lambda) and
l = log a = -s r, sqrt(1 - e^2l) = sqrt(2 s) sqrt(r) sqrt((1 - e^2l) / -2l), each smooth.

Source: docs/math.md section 3 (`rglru`); De et al. 2024, Griffin: mixing gated linear recurrences with local attention,
section 2.4.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, Video
from cssm.ops import linear_scan

from ..mixer import MIXERS, Mixer, select
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared.bounds import dense_bound
from ..shared.pixel_memory import repeated

SHARPNESS = 8.0  # c of the paper: a = exp(-c softplus(Lambda) r)


class RGLRUState(NamedTuple):
    memory: Float[Any, "b h w c"]


@MIXERS.register("rglru")
class RGLRU(Mixer):
    """Griffin's real-gated linear recurrent unit (RG-LRU) over time, per position.

    Args:
      channels: C. a_min, a_max: the decay per frame of an open gate (r = 1) starts uniform between these.

    >>> from flax import nnx
    >>> RGLRU(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    closed_form = ("last", "mean")

    def __init__(self, channels: int, *, a_min: float = 0.9, a_max: float = 0.999, rngs: nnx.Rngs):
        if not 0 < a_min < a_max < 1:
            raise UsageError(f"rglru: a_min {a_min}, a_max {a_max}: expected 0 < a_min < a_max < 1")
        self.channels = channels
        decay = jax.random.uniform(rngs.params(), (channels,), minval=a_min, maxval=a_max)
        self.Lambda = RecurrenceParam(jnp.log(jnp.expm1(-jnp.log(decay) / SHARPNESS)))
        self.decay_gate = Dense(channels, channels, rngs=rngs)
        self.input_gate = Dense(channels, channels, rngs=rngs)
        self.out = Dense(channels, channels, rngs=rngs)

    def init_state(self, batch: int, grid: Grid) -> RGLRUState:
        return RGLRUState(jnp.zeros((batch, *grid, self.channels), jnp.float32))

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The bound of the module's docstring, with i <= 1."""
        least = -dense_bound(self.decay_gate, input_bound)
        rate = SHARPNESS * np.logaddexp(0, np.asarray(self.Lambda[...], np.float64)) / (1 + np.exp(-least))
        return float(input_bound * np.sqrt(1 / np.tanh(rate / 2)).max())  # (1 + e^-s) / (1 - e^-s) = coth(s / 2)

    def _step(self, state: RGLRUState, x: Frame) -> tuple[RGLRUState, Frame]:
        decay, write = self.gates(x)
        memory = decay * state.memory + write
        return RGLRUState(memory), self.out(memory.astype(x.dtype))

    def _scan(self, state: RGLRUState, x: Video, *, reset=None, readout="all") -> tuple[RGLRUState, Video | Frame]:
        memory = linear_scan(*self.gates(x), state.memory, reset=reset)
        # y is linear in the memory, so the mean y is the y of the mean memory
        return RGLRUState(memory[:, -1]), self.out(select(memory, readout).astype(x.dtype))

    def _static(self, state: RGLRUState, x: Frame, steps: int, *, readout) -> tuple[RGLRUState, Frame]:
        decay, write = self.gates(x)
        memory, shown = repeated(decay, write, state.memory, steps, readout)
        return RGLRUState(memory), self.out(shown.astype(x.dtype))

    def gates(self, x):
        """a and sqrt(1 - a^2) i x of frames x (..., C), float32 at least."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        rate = SHARPNESS * jax.nn.softplus(self.Lambda[...].astype(wide))
        gate = self.decay_gate(x).astype(wide)
        log_a = -rate * jax.nn.sigmoid(gate)
        root = jnp.sqrt(2 * rate) * jnp.exp(0.5 * jax.nn.log_sigmoid(gate)) * _root(log_a)
        return jnp.exp(log_a), root * jax.nn.sigmoid(self.input_gate(x).astype(wide)) * x.astype(wide)


def _root(log_a):
    """sqrt((1 - e^2l) / -2l) for l <= 0, smooth through l = 0, where it is 1."""
    near = log_a > -0.02
    far = jnp.where(near, -1.0, log_a)
    square = jnp.square(log_a)
    series = jnp.exp(log_a / 2) * (1 + square / 12 + square * square / 1440)  # up to l^6 / 10^5
    return jnp.where(near, series, jnp.sqrt(jnp.expm1(2 * far) / (2 * far)))
