"""Gated CSSM without the FFT: the same input, gates and output as `gated`, but states stay at their pixel. A control.

v = dwconv_3x3(Dense(x)), z = Dense(x), u_t = silu(sum_j k_j v_{t-j}) over 4 frames; per channel and pixel
S_t = a e^{-D_t} S_{t-1} + D_t B_t u_t, y_t = Dense(RMSNorm(C_t S_t) silu(z_t)), a = sigmoid(decay_logit) in (0, 1) per
channel. D = softplus(row) + softplus(column), B and C products of a row and a column factor, from the mean of u_t over
space, as in `gated`; rows and columns are those of the grid. Space is seen only through the 3x3 convolution.

|S_t| <= D W / (1 - a e^{-D}) at the largest D, W = max|B u|: see `gated`, whose proof holds for any gain a <= 1.

Source: docs/math.md section 3; 003 Methods (`no_fft`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.typing import Float, Frame, Grid, Video
from cssm.ops.scan.geometric import geometric

from ..mixer import MIXERS, Mixer, repeat_frame, select
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared.bounds import dense_bound
from ..shared.causal_conv import CausalConv, DepthwiseConv
from ..shared.frames import scan_frames
from ..shared.gates import FactoredGates, outer, over_columns, over_rows
from ..shared.wide import wide

GATES = {"step": -2.0, "write": 1.0, "read": 1.0}  # initial bias of each factor


class NoFFTState(NamedTuple):
    past: Float[Any, "b p h w c"]
    memory: Float[Any, "b h w c"]


@MIXERS.register("no_fft")
class NoFFT(Mixer):
    """Gated recurrence at every pixel, no FFT: a control.

    Args:
      channels: C. conv_size: taps of the depthwise convolution over space, zero boundary. conv_frames: taps over time.
      knots: values per axis of the gates' reference grid.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> NoFFT(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    closed_form = ("last",)

    def __init__(
        self, channels: int, *, conv_size: int = 3, conv_frames: int = 4, knots: int = 17, rngs: nnx.Rngs
    ):  # fmt: skip
        self.channels = channels
        self.decay_logit = RecurrenceParam(jnp.full((channels,), 2.0))
        self.inner = Dense(channels, channels, rngs=rngs)
        self.gate = Dense(channels, channels, rngs=rngs)
        self.space_conv = DepthwiseConv(channels, conv_size, rngs=rngs)
        self.time_conv = CausalConv(channels, conv_frames, rngs=rngs)
        self.gates = FactoredGates(channels, GATES, knots=knots, domain="space", rngs=rngs)
        self.norm = nnx.RMSNorm(channels, rngs=rngs)
        self.out = Dense(channels, channels, rngs=rngs)

    def decay(self):
        """(C,): a, the decay per frame before the gate."""
        logit = self.decay_logit[...]
        return jax.nn.sigmoid(wide(logit))

    def init_state(self, batch: int, grid: Grid) -> NoFFTState:
        memory = jnp.zeros((batch, *grid, self.channels), jnp.float32)
        return NoFFTState(self.time_conv.init_state(batch, grid), memory)

    def _step(self, state: NoFFTState, x: Frame) -> tuple[NoFFTState, Frame]:
        past, v = self.time_conv.step(state.past, self.space_conv(self.inner(x)))
        memory, y = self._advance(state.memory, (x, jax.nn.silu(v)))
        return NoFFTState(past, memory), y

    def _scan(self, state: NoFFTState, x: Video, *, reset=None, readout="all") -> tuple[NoFFTState, Video | Frame]:
        past, v = self.time_conv.scan(state.past, self.space_conv(self.inner(x)), reset)
        u = jax.nn.silu(v)
        advance = lambda memory, now: self._advance(memory, now, shown=readout != "last")  # noqa: E731
        memory, y = scan_frames(advance, state.memory, (x, u), reset)
        if readout == "last":
            return NoFFTState(past, memory), self.output(x[:, -1], memory, self.factors(u[:, -1]))
        return NoFFTState(past, memory), select(y, readout)

    def _static(self, state: NoFFTState, x: Frame, steps: int) -> tuple[NoFFTState, Frame]:
        """Frame by frame while the convolution still sees the past, then in closed form."""
        first = min(self.time_conv.taps, steps)
        if first == steps:
            return self._scan(state, repeat_frame(x, steps), readout="last")
        state, _ = self._scan(state, repeat_frame(x, first), readout="last")
        past, v = self.time_conv.step(state.past, self.space_conv(self.inner(x)))
        u = jax.nn.silu(v)
        factors = self.factors(u)
        decay, write = self._transition(factors)
        power, total, _ = geometric(decay, steps - first)
        memory = total * (write * u) + power * state.memory
        return NoFFTState(past, memory), self.output(x, memory, factors)

    def factors(self, u):
        """The gates of frames u (..., H, W, C): rows (..., H) and columns (..., W) of each, not their product."""
        gates = self.gates(u.mean((-3, -2)), u.shape[-3:-1])
        return {**gates, "step": jax.tree.map(jax.nn.softplus, gates["step"])}

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The bound of the module's docstring, with every layer's gain for the gates and the write."""
        v = self.space_conv.bound(dense_bound(self.inner, input_bound))
        u = self.time_conv.bound(v)  # |silu(u)| <= |u|
        limits = self.gates.bound(u)
        largest = 2 * np.logaddexp(0, limits["step"])
        write = limits["write"] ** 2 * u.max()
        return float(max(v.max(), largest * write / (1 - float(self.decay().max()) * np.exp(-largest))))

    def _advance(self, memory, now, shown=True):
        """One frame x, convolved to u: the memory after it, and y."""
        x, u = now
        factors = self.factors(u)
        decay, write = self._transition(factors)
        memory = decay * memory + write * u
        return memory, self.output(x, memory, factors) if shown else None

    def _transition(self, factors):
        """a e^{-D} and D B, (..., H, W, C) and (..., H, W, 1)."""
        rows, columns = factors["step"]
        write = (over_columns(rows) + over_rows(columns)) * outer(*factors["write"])
        return self.decay() * outer(jnp.exp(-rows), jnp.exp(-columns))[..., None], write[..., None]

    def output(self, x, memory, factors):
        """y of frames x (..., H, W, C), the memory after them, and their gates."""
        y = self.norm((outer(*factors["read"])[..., None] * memory).astype(x.dtype))
        return self.out(y * jax.nn.silu(self.gate(x)))
