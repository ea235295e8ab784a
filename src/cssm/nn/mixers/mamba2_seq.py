"""Mamba-2 over tokens: a decaying outer-product memory on the flattened pixels of the clip. A baseline.

Tokens are read in raster order, frame after frame. [u, B, C] = silu(4-token causal depthwise conv of Dense(x)), with u
in heads of d channels and B, C of N numbers shared by the heads; dt = min(softplus(Dense x), 1) and a = e^(-A dt) per
head, A > 0; S_t = a_t S_{t-1} + dt_t u_t B_t^T, o_t = S_t C_t + D u_t; y_t = Dense(RMSNorm(o_t) silu(Dense x_t)).
Real arithmetic, in chunks of matrix products (state-space duality).

|S_t| <= max|u B| / (1 - e^-A) for every entry: if it holds for S_{t-1} it holds for S_t, because dt / (1 - e^(-A dt))
increases with dt and dt <= 1.

Source: docs/math.md section 3; 003 (`mamba2_seq`); Dao and Gu 2024, Transformers are SSMs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, Video
from cssm.ops import decayed_attention
from cssm.ops.scan.geometric import geometric
from cssm.shared.decay import decay_bias

from ..mixer import MIXERS, Mixer, select
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared.bounds import decay_bound, dense_bound
from ..shared.causal_conv import CausalConv
from ..shared.tokens import over_tokens, repeated


class Mamba2SeqState(NamedTuple):
    past: Float[Any, "b p 1 1 inner"]
    memory: Float[Any, "b heads d n"]


@MIXERS.register("mamba2_seq")
class Mamba2Seq(Mixer):
    """Mamba-2 over the tokens of the clip: a baseline.

    Args:
      channels: C. expand: inner channels E C. head_dim: d, a divisor of E C. state_dim: N, length of B and C.
      conv_tokens: taps of the causal convolution over tokens.

    >>> from flax import nnx
    >>> Mamba2Seq(4, head_dim=4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    closed_form = ("last",)

    def __init__(
        self, channels: int, *, expand: int = 2, head_dim: int | None = None, state_dim: int = 16,
        conv_tokens: int = 4, rngs: nnx.Rngs,
    ):  # fmt: skip
        inner = expand * channels
        head_dim = int(np.gcd(inner, 16)) if head_dim is None else head_dim
        if min(expand, head_dim, state_dim) < 1 or inner % head_dim:
            sizes = f"expand = {expand}, head_dim = {head_dim}, state_dim = {state_dim}"
            raise UsageError(f"mamba2_seq: {sizes}: expected at least 1, and heads that divide {inner} inner channels")
        self.channels, self.inner, self.state_dim = channels, inner, state_dim
        self.heads = inner // head_dim
        self.inputs = Dense(channels, inner + 2 * state_dim, rngs=rngs)
        self.conv = CausalConv(inner + 2 * state_dim, conv_tokens, rngs=rngs)
        self.rate = Dense(channels, self.heads, rngs=rngs)
        self.rate.bias = RecurrenceParam(jnp.asarray(decay_bias(self.heads), jnp.float32))
        self.log_A = RecurrenceParam(jnp.zeros((self.heads,)))
        self.skip = RecurrenceParam(jnp.ones((self.heads,)))
        self.norm = nnx.RMSNorm(inner, rngs=rngs)
        self.gate = Dense(channels, inner, rngs=rngs)
        self.out = Dense(inner, channels, rngs=rngs)

    def init_state(self, batch: int, grid: Grid) -> Mamba2SeqState:
        """The same for every grid: the state after the last token."""
        memory = jnp.zeros((batch, self.heads, self.inner // self.heads, self.state_dim), jnp.float32)
        return Mamba2SeqState(self.conv.init_state(batch, (1, 1)), memory)

    def _step(self, state: Mamba2SeqState, x: Frame) -> tuple[Mamba2SeqState, Frame]:
        return self._scan(state, x[:, None], readout="last")

    def _scan(
        self, state: Mamba2SeqState, x: Video, *, reset=None, readout="all"
    ) -> tuple[Mamba2SeqState, Video | Frame]:
        tokens, reset = over_tokens(x, reset)
        past, u = self.conv.scan(state.past, self.inputs(tokens), reset)
        q, k, v, dt, log_a = self.projections(jax.nn.silu(u[:, :, 0, 0]), tokens[:, :, 0, 0])
        memory, o = decayed_attention(q, k, dt[..., None] * v, log_a, state=state.memory, reset=reset)
        o = (o + self.skip[...][:, None] * v).reshape(*x.shape[:-1], self.inner)
        state = Mamba2SeqState(past, memory)
        if readout == "last":
            return state, self.output(x[:, -1], o[:, -1])
        return state, select(self.output(x, o), readout)

    def _static(self, state: Mamba2SeqState, x: Frame, steps: int) -> tuple[Mamba2SeqState, Frame]:
        """The last frame alone is read: those before it multiply the memory by the same decays."""
        return repeated(self, state, x, steps)

    def after_frames(self, state: Mamba2SeqState, x: Frame, written, frames: int):
        """The memory after a frame that writes `written` has come `frames` times more, in closed form."""
        rates = self._rates(x.reshape(x.shape[0], -1, self.channels), jnp.promote_types(x.dtype, jnp.float32))
        power, total, _ = geometric(jnp.exp(rates[1].sum(1))[..., None, None], frames)
        return power * state.memory + total * written

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The bound of the module's docstring, with every layer's gain for u and B; entries of past tokens too."""
        past = dense_bound(self.inputs, input_bound)
        u, k, _ = np.split(self.conv.bound(past), [self.inner, self.inner + self.state_dim])  # |silu(u)| <= |u|
        write = u.reshape(self.heads, -1).max(1) * k.max()
        decay = np.exp(-np.exp(np.asarray(self.log_A[...], np.float64)))
        return float(max(past.max(), decay_bound(write, decay)))

    def projections(self, u, x):
        """C and B (B, N, state_dim), u (B, N, heads, d), dt and log a (B, N, heads) of tokens, in float32."""
        wide = jnp.promote_types(u.dtype, jnp.float32)
        v, k, q = jnp.split(u.astype(wide), [self.inner, self.inner + self.state_dim], -1)
        return q, k, v.reshape(*u.shape[:2], self.heads, -1), *self._rates(x, wide)

    def _rates(self, x, dtype):
        """dt and log a, (B, N, heads)."""
        dt = jnp.minimum(jax.nn.softplus(self.rate(x).astype(dtype)), 1)
        return dt, -jnp.exp(self.log_A[...].astype(dtype)) * dt

    def output(self, x, o):
        """y of frames x (..., H, W, C) and o (..., H, W, E C)."""
        return self.out(self.norm(o).astype(x.dtype) * jax.nn.silu(self.gate(x)))
