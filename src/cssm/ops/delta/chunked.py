"""Chunks of tokens as matrix products (the WY form), and a state carried from chunk to chunk: real keys, no gain.

Inside a chunk, with D_ti = alpha_{i+1} ... alpha_t and D_t0 the decay since its start, S_t = D_t0 S_0 + sum_{i<=t}
D_ti u_i k_i^T, where u_t = beta_t (v_t - alpha_t S_{t-1} k_t). Hence (I + L) U = beta (V - D_0 K S_0^T) with
L_ti = beta_t D_ti k_t.k_i for i < t: one triangular system. Then O = D_0 Q S_0^T + (Q K^T * D) U.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Bool, Float, Reset
from cssm.shared.delta import Gain, Gates, Keys, Memory, Values

CHUNK = 64  # tokens

product = partial(jnp.einsum, precision="highest")


def chunked(
    q: Keys, k: Keys, v: Values, alpha: Gates, beta: Gates, gain: Gain | None, state: Memory, reset: Reset | None,
    readout: str = "all",
) -> tuple[Any, Any]:  # fmt: skip
    if gain is not None or k.ndim != 4 or jnp.iscomplexobj(k):
        raise UsageError("delta_rule: 'chunked' takes real tokens (B, T, N, D) without a gain; use 'sequential'")
    state, o = over_chunks(_chunk, state, (q, k, v, log_decay(alpha), beta), reset, k.shape[1])
    return state, o if readout == "all" else o[:, -1]


def log_decay(alpha: Gates) -> Gates:
    """log alpha for alpha >= 0, with the slope 1/alpha: below sqrt(tiny) (1e-19 in float32) alpha is taken as that.

    D is linear in alpha, so its slope, D over alpha, is the same at any alpha; at 0 it is 0/0. NaN where alpha < 0.
    """
    floor = math.sqrt(jnp.finfo(alpha.dtype).tiny)
    return jnp.log(alpha + lax.stop_gradient(jnp.where((alpha >= 0) & (alpha < floor), floor - alpha, 0)))


def over_chunks(
    chunk: Callable[..., tuple[Any, Any]], state: Float[Any, "b n dv dk"], arrays: tuple, reset: Reset | None,
    steps: int,
) -> tuple[Any, Any]:  # fmt: skip
    """Scan `chunk(state, *arrays of a chunk, fresh)` over time; only the states between chunks are kept for gradients.

    Padding is zeros: no write, log decays of 0. fresh (B, L) bool, or None, is reset.
    """
    size = min(CHUNK, steps)
    arrays = (*arrays, *(() if reset is None else (reset,)))
    pieces = tuple(_split(a, size) for a in arrays)
    body = lambda s, piece: chunk(s, *(piece if reset is not None else (*piece, None)))  # noqa: E731
    state, o = lax.scan(jax.checkpoint(body, prevent_cse=False), state, pieces)
    o = jnp.moveaxis(o, 0, 1)
    return state, o.reshape(o.shape[0], -1, *o.shape[3:])[:, :steps]


def _split(a, size):
    """(B, T, ...) -> (chunks, B, size, ...)."""
    a = jnp.pad(a, [(0, 0), (0, -a.shape[1] % size)] + [(0, 0)] * (a.ndim - 2))
    return jnp.moveaxis(a.reshape(a.shape[0], -1, size, *a.shape[2:]), 1, 0)


def decays(
    log_a: Float[Any, "b l n"], reset: Bool[Any, "b l"] | None
) -> tuple[Float[Any, "b n l l"], Float[Any, "b n l"]]:
    """D (B, N, L, L): exp of the sum of log_a over (i, t], 0 where i > t or a reset lies between; and D_0 (B, N, L).

    Every exponent is a sum of its own steps, masked before exp: nothing cancels, nothing overflows.
    """
    log_a = jnp.moveaxis(log_a, 1, 2)  # b n t
    size = log_a.shape[-1]
    t, i = jnp.ogrid[:size, :size]
    sums = jnp.where(i < t, log_a[..., None], 0).cumsum(-2)
    seen, whole = (i <= t)[None, None], log_a.cumsum(-1)
    if reset is not None:
        starts = reset.cumsum(1)
        seen = seen & (starts[:, None, :, None] == starts[:, None, None])
        whole = jnp.where(starts[:, None] == 0, whole, -jnp.inf)
    return jnp.exp(jnp.where(seen, sums, -jnp.inf)), jnp.exp(whole)


def _chunk(state, q, k, v, log_alpha, beta, reset):
    """(B, L, N, D) tokens from state (B, N, Dv, Dk): the state after them, and o."""
    if reset is not None:
        log_alpha = jnp.where(reset[..., None], 0, log_alpha)
    decay, since = decays(log_alpha, reset)
    q, k, v = (jnp.moveaxis(a, 1, 2) for a in (q, k, v))  # b n t d
    beta = jnp.moveaxis(beta, 1, 2)[..., None]
    overlap = product("bntd,bnid->bnti", k, k)
    system = jnp.tril(beta * decay * overlap, -1)
    error = v - since[..., None] * product("bntj,bnij->bnti", k, state)
    write = lax.linalg.triangular_solve(system, beta * error, left_side=True, lower=True, unit_diagonal=True)  # b n t i
    o = since[..., None] * product("bntj,bnij->bnti", q, state)
    o = o + product("bnti,bnid->bntd", decay * product("bntd,bnid->bnti", q, k), write)
    ends = product("bnti,bntj->bnij", decay[:, :, -1, :, None] * write, k)
    return since[..., -1, None, None] * state + ends, jnp.moveaxis(o, 1, 2)
