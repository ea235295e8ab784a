"""ConvSSM: a scalar decay per channel with input-dependent write and read, and no FFT. A control.

S_t = a S_{t-1} + (Dense_B x_t) * dwconv(x_t); y_t = Dense((Dense_C x_t) * S_t); a = sigmoid(decay_logit) in (0, 1), so
|S_t| <= a |S_{t-1}| + max|write|, hence |S_t| <= max|write| / (1 - a). Space is seen only through the
depthwise convolution of the input: states do not spread.

Source: docs/math.md section 3; 003 Methods (`conv_ssm`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.typing import Float, Frame, Grid, Video
from cssm.ops import linear_scan

from ..mixer import MIXERS, Mixer, select
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared.bounds import decay_bound, dense_bound
from ..shared.causal_conv import DepthwiseConv
from ..shared.pixel_memory import repeated
from ..shared.wide import wide


class ConvSSMState(NamedTuple):
    memory: Float[Any, "b h w c"]


@MIXERS.register("conv_ssm")
class ConvSSM(Mixer):
    """Scalar decay per channel, input-dependent write and read, no FFT: a control.

    Args: channels: C. kernel_size: taps of the depthwise convolution (zero boundary).

    >>> from flax import nnx
    >>> ConvSSM(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    takes_dt = time_invariant = True
    closed_form = ("last", "mean")

    def __init__(self, channels: int, *, kernel_size: int = 3, rngs: nnx.Rngs):
        self.channels = channels
        self.conv = DepthwiseConv(channels, kernel_size, rngs=rngs)
        self.write = Dense(channels, channels, rngs=rngs)
        self.read = Dense(channels, channels, rngs=rngs)
        self.out = Dense(channels, channels, rngs=rngs)
        self.decay_logit = RecurrenceParam(jnp.full((channels,), 2.0))

    def transition(self, grid: Grid):
        """(C, 1, 1): the decay a in (0, 1) per frame, the same at every position."""
        return jax.nn.sigmoid(wide(self.decay_logit[...]))[:, None, None]

    def _decay(self, dt=None):
        """a (C,), or a^dt (*dt.shape, 1, 1, C): exp(dt log a), as a is positive."""
        if dt is None:
            return self.transition((1, 1))[:, 0, 0]
        log_decay = jax.nn.log_sigmoid(wide(self.decay_logit[...]))
        return jnp.exp(dt[..., None, None, None] * log_decay)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """max|write| / (1 - a), with |write| <= max|Dense_B x| max|dwconv x|, each at most an l1 norm of weights."""
        write = dense_bound(self.write, input_bound) * self.conv.bound(input_bound)
        return decay_bound(write, self._decay())

    def init_state(self, batch: int, grid: Grid) -> ConvSSMState:
        return ConvSSMState(jnp.zeros((batch, *grid, self.channels), jnp.float32))

    def _step(self, state: ConvSSMState, x: Frame, dt=None) -> tuple[ConvSSMState, Frame]:
        memory = self._decay(dt) * state.memory + self.written(x)
        return ConvSSMState(memory), self.output(x, memory)

    def _scan(
        self, state: ConvSSMState, x: Video, *, reset=None, readout="all", dt=None
    ) -> tuple[ConvSSMState, Video | Frame]:
        memory = linear_scan(self._decay(dt), self.written(x), state.memory, reset=reset)
        if readout == "last":
            return ConvSSMState(memory[:, -1]), self.output(x[:, -1], memory[:, -1])
        return ConvSSMState(memory[:, -1]), select(self.output(x, memory), readout)

    def _static(self, state: ConvSSMState, x: Frame, steps: int, *, readout) -> tuple[ConvSSMState, Frame]:
        decay, frame = self._decay(), self.written(x)
        # y is linear in the memory, so the mean y is the y of the mean memory
        memory, shown = repeated(decay, frame, state.memory, steps, readout)
        return ConvSSMState(memory), self.output(x, shown)

    def written(self, x):
        """What frames x (..., H, W, C) write, float32."""
        return wide(self.write(x) * self.conv(x))

    def output(self, x, memory):
        """y of frames x (..., H, W, C) and the memory after them."""
        return self.out(self.read(x) * memory.astype(x.dtype))
