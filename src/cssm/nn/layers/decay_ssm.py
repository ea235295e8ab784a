"""DecaySSM, the layer of source 001: a decaying memory matrix per batch element, written and read by rank one.

From u (B,T,D): decays log_a = -softplus(Dense u) (B,T,R), a write v k^T (v (B,T,R), k (B,T,C)) and a query q (B,T,C);
H_t = exp(log_a_t) H_{t-1} + v_t k_t^T, y_t = Dense(H_t q_t). |H_t| stays below the decayed sum of what was written.

| form      | holds            | work per step        |
|-----------|------------------|----------------------|
| `naive`   | (B,T,T,R)        | T R C                |
| `kernel`  | (B,T,R,C)        | R C, bound by memory |
| `chunked` | (B,T,L,R)        | L (C + R) + R C      |
| `step`    | (B,R,C), a state | R C                  |

All are equal, in values and gradients. Source: source 001 (`ssm.py`); docs/math.md section 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.ops import decay_scan
from cssm.ops.scan import decay_scan_reference
from cssm.shared.decay import check_decay_ssm, check_decay_ssm_input, decay_bias

from ..parameter import RecurrenceParam
from ..parts.dense import Dense


class DecaySSM(nnx.Module):
    """A decaying memory (R, C) that is written and read by outer products.

    Args:
      dim: D, features of u. rows: R, values, each with its own decay. channels: C, length of keys and queries.
      chunk: L, the chunk length of "chunked"; any T fits. implementation: "chunked", "kernel" (`decay_scan`), "naive"
        (the masked einsum of source 001), or None for the fastest measured: "kernel" for R C < 512, else "chunked".

    Raises: UsageError: a size below 1, or an unknown implementation.

    >>> from flax import nnx
    >>> layer = DecaySSM(8, 4, 6, rngs=nnx.Rngs(0))
    >>> layer(jnp.zeros((2, 5, 8))).shape, layer.step(layer.init_state(2), jnp.zeros((2, 8)))[1].shape
    ((2, 5, 8), (2, 8))
    """

    def __init__(
        self, dim: int, rows: int, channels: int, *, chunk: int = 8, implementation: str | None = None, rngs: nnx.Rngs
    ):
        self.dim, self.rows, self.channels = dim, rows, channels
        self.chunk, self.implementation = chunk, check_decay_ssm(dim, rows, channels, chunk, implementation)
        self.decay = Dense(dim, rows, rngs=rngs)
        self.decay.bias = RecurrenceParam(jnp.asarray(decay_bias(rows), jnp.float32))
        self.value, self.out = Dense(dim, rows, rngs=rngs), Dense(rows, dim, rngs=rngs)
        self.key, self.query = Dense(dim, channels, rngs=rngs), Dense(dim, channels, rngs=rngs)

    def init_state(self, batch: int) -> jax.Array:
        """No past: (B, R, C)."""
        return jnp.zeros((batch, self.rows, self.channels), jnp.float32)

    def step(self, state, u):
        """One step u (B, D): the state (B, R, C) after it, and y (B, D)."""
        check_decay_ssm_input("step", u, state, self.dim, self.rows, self.channels)
        log_a, v, k, q = self._project(u)
        state = jnp.exp(log_a)[..., None] * state + v[..., None] * k[:, None, :]
        return state, self._read(jnp.einsum("brc,bc->br", state, q), u)

    def scan(self, state, u):
        """A sequence u (B, T, D) from a carried state: the state (B, R, C) after it, and y (B, T, D)."""
        check_decay_ssm_input("scan", u, state, self.dim, self.rows, self.channels)
        parts = self._project(u)
        if self.implementation == "chunked":
            state, y = chunked(*parts, state, self.chunk)
        else:
            state, y = whole(*parts, state, decay_scan if self.implementation == "kernel" else decay_scan_reference)
        return state, self._read(y, u)

    def __call__(self, u):
        """y (B, T, D) for u (B, T, D) with no past."""
        return self.scan(self.init_state(u.shape[0]), u)[1]

    def _project(self, u):
        """log_a (.., R), v (.., R), k and q (.., C), in float32 at least; k is scaled by C^-1/2."""
        carry = jnp.promote_types(u.dtype, jnp.float32)
        decay, v, k, q = (part(u).astype(carry) for part in (self.decay, self.value, self.key, self.query))
        return -jax.nn.softplus(decay), v, k * self.channels**-0.5, q

    def _read(self, y, u):
        return self.out(y).astype(u.dtype)


def whole(log_a, v, k, q, state, scan):
    """(state, y) by a scan over the (B, T, R, C) array of all writes."""
    h = scan(log_a, v[..., None] * k[:, :, None, :], state)
    return h[:, -1], jnp.einsum("btrc,btc->btr", h, q)


def chunked(log_a, v, k, q, state, chunk):
    """(state, y) without the (B, T, R, C) array: attention with decays inside chunks, a decay scan between them.

    Inside a chunk y_t = sum_{j <= t} (q_t . k_j) exp(l_{j+1} + ... + l_t) v_j. Every exponent is a sum of log_a of
    its own steps, hence <= 0 where log_a is, and masked before exp. Padding decays by 0 and writes 0.
    """
    steps, chunk = v.shape[1], min(chunk, v.shape[1])
    log_a, v, k, q = (_split(part, chunk) for part in (log_a, v, k, q))  # (B, N, L, R or C)
    j, t = (index[..., None] for index in np.ogrid[:chunk, :chunk])
    exponents = jnp.where(j < t, log_a[:, :, None], 0).cumsum(3)  # (B, N, j, t, R)
    weights = jnp.exp(jnp.where(j <= t, exponents, -jnp.inf))
    scores = jnp.einsum("bnjc,bntc->bnjt", k, q)
    inside = (weights * scores[..., None] * v[:, :, :, None]).sum(2)
    ends = jnp.einsum("bnjr,bnjc->bnrc", weights[:, :, :, -1] * v, k)  # what each chunk adds to the state
    states: Any = decay_scan(log_a.sum(2), ends, state)
    before = jnp.concatenate([state.astype(states.dtype)[:, None], states[:, :-1]], 1)
    y = inside + jnp.exp(log_a.cumsum(2)) * jnp.einsum("bnrc,bntc->bntr", before, q)
    return states[:, -1], y.reshape(y.shape[0], -1, y.shape[3])[:, :steps]


def _split(part, chunk):
    part = jnp.pad(part, ((0, 0), (0, -part.shape[1] % chunk), (0, 0)))
    return part.reshape(part.shape[0], -1, chunk, part.shape[2])
