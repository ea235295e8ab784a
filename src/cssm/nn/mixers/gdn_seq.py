"""GDN over tokens: the gated delta rule on the flattened pixels of the clip, one token after another. A baseline.

Tokens are read in raster order, frame after frame, so that a token sees earlier tokens of its own frame only. Per token
u = silu(4-token causal depthwise conv of x), q, k, v = Dense(u) in heads of d channels, q and k of norm 1;
S_t = alpha_t S_{t-1} (I - beta_t k k^T) + beta_t v k^T, o_t = S_t q_t; y_t = Dense(RMSNorm(o_t) silu(Dense x_t)), with
alpha = exp(-floor - e^a softplus(Dense u)) and beta = sigmoid(Dense u) per head and token. Real arithmetic, chunks of
matrix products. There is no space in it but the raster.

|S_t| <= max|v| / (1 - e^-floor) in the spectral norm, hence every entry: |I - beta k k^T| <= 1 as |k| <= 1, so
|S_t| <= e^-floor |S_{t-1}| + |v|.

Source: docs/math.md section 3; 003 (`gdn_seq`); Yang et al. 2024, Gated delta networks.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, Video
from cssm.ops import delta_rule
from cssm.shared.decay import decay_bias

from ..mixer import MIXERS, Mixer, select
from ..parameter import RecurrenceParam
from ..parts.dense import Dense
from ..shared.bounds import decay_bound, dense_bound
from ..shared.causal_conv import CausalConv
from ..shared.tokens import matrix_geometric, over_tokens, product, repeated

FLOOR = 1e-4  # of the decay rate: memories of at most 10^4 tokens, and a bounded state
EPSILON = 1e-6


class GDNSeqState(NamedTuple):
    past: Float[Any, "b p 1 1 c"]
    memory: Float[Any, "b heads d d"]


@MIXERS.register("gdn_seq")
class GDNSeq(Mixer):
    """The gated delta rule over the tokens of the clip: a baseline.

    Args:
      channels: C. head_dim: d, channels of q, k and v per head, a divisor of C; None for the largest up to 16 that is
        a power of two. conv_tokens: taps of the causal convolution over tokens.

    >>> from flax import nnx
    >>> GDNSeq(4, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    closed_form = ("last",)

    def __init__(self, channels: int, *, head_dim: int | None = None, conv_tokens: int = 4, rngs: nnx.Rngs):
        head_dim = math.gcd(channels, 16) if head_dim is None else head_dim
        if head_dim < 1 or channels % head_dim:
            raise UsageError(f"gdn_seq: {channels} channels do not split into heads of head_dim = {head_dim}")
        self.channels, self.heads = channels, channels // head_dim
        self.conv = CausalConv(channels, conv_tokens, rngs=rngs)
        self.qkv = Dense(channels, 3 * channels, rngs=rngs)
        self.rates = Dense(channels, 2 * self.heads, rngs=rngs)
        self.rates.bias = RecurrenceParam(jnp.asarray(decay_bias(self.heads) + [0.0] * self.heads, jnp.float32))
        self.log_rate = RecurrenceParam(jnp.zeros((self.heads,)))
        self.norm = nnx.RMSNorm(channels, rngs=rngs)
        self.gate = Dense(channels, channels, rngs=rngs)
        self.out = Dense(channels, channels, rngs=rngs)

    def init_state(self, batch: int, grid: Grid) -> GDNSeqState:
        """The same for every grid: the state after the last token."""
        d = self.channels // self.heads
        memory = jnp.zeros((batch, self.heads, d, d), jnp.float32)
        return GDNSeqState(self.conv.init_state(batch, (1, 1)), memory)

    def _step(self, state: GDNSeqState, x: Frame) -> tuple[GDNSeqState, Frame]:
        return self._scan(state, x[:, None], readout="last")

    def _scan(self, state: GDNSeqState, x: Video, *, reset=None, readout="all") -> tuple[GDNSeqState, Video | Frame]:
        tokens, reset = over_tokens(x, reset)
        past, u = self.conv.scan(state.past, tokens, reset)
        memory, o = delta_rule(*self.projections(jax.nn.silu(u[:, :, 0, 0])), state=state.memory, reset=reset)
        o, state = o.reshape(x.shape), GDNSeqState(past, memory)
        if readout == "last":
            return state, self.output(x[:, -1], o[:, -1])
        return state, select(self.output(x, o), readout)

    def _static(self, state: GDNSeqState, x: Frame, steps: int) -> tuple[GDNSeqState, Frame]:
        """The last frame alone is read: those before it map the memory by the same matrix."""
        return repeated(self, state, x, steps)

    def after_frames(self, state: GDNSeqState, x: Frame, written, frames: int):
        """S M^n + written (1 + M + ... + M^{n-1}) for n frames more, M the product of the transitions of a frame."""
        u = self.conv.scan(state.past, over_tokens(x[:, None])[0])[1]
        q, k, v, alpha, beta = self.projections(jax.nn.silu(u[:, :, 0, 0]))
        identity = jnp.broadcast_to(jnp.eye(k.shape[-1], dtype=state.memory.dtype), state.memory.shape)
        frame = delta_rule(q, k, jnp.zeros_like(v), alpha, beta, state=identity, readout="last")[0]
        power, total = matrix_geometric(frame, frames)
        return product(state.memory, power) + product(written, total)

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The bound of the module's docstring, with every layer's gain for v; entries of past tokens too."""
        u = self.conv.bound(input_bound)  # |silu(u)| <= |u|
        v = dense_bound(self.qkv, u)[2 * self.channels :].reshape(self.heads, -1)
        return max(input_bound, decay_bound(np.sqrt(np.square(v).sum(1)), math.exp(-FLOOR)))

    def projections(self, u):
        """q, k, v (B, N, heads, d) of tokens u (B, N, C), and alpha, beta (B, N, heads), in float32."""
        wide = jnp.promote_types(u.dtype, jnp.float32)
        qkv = self.qkv(u).astype(wide).reshape(*u.shape[:2], 3, self.heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        rate, beta = jnp.split(self.rates(u).astype(wide), 2, -1)
        rate = jnp.exp(self.log_rate[...].astype(wide)) * jax.nn.softplus(rate)
        return _unit(q), _unit(k), v, jnp.exp(-FLOOR - rate), jax.nn.sigmoid(beta)

    def output(self, x, o):
        """y of frames x (..., H, W, C) and o of their shape."""
        return self.out(self.norm(o).astype(x.dtype) * jax.nn.silu(self.gate(x)))


def _unit(k):
    return k * jax.lax.rsqrt(jnp.square(k).sum(-1, keepdims=True) + EPSILON)
