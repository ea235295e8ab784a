"""Decayed attention in chunks (state-space duality): keys and queries shared by the heads, one scalar decay per head.

Inside a chunk o_t = D_t0 S_0 q_t + sum_{i<=t} D_ti (q_t . k_i) v_i: two matrix products, and a state between chunks.
"""

from typing import Any

import jax.numpy as jnp

from cssm.core.typing import Float, Reset
from cssm.shared.delta import Gates

from .chunked import decays, over_chunks, product


def ssd(
    q: Float[Any, "b t d"], k: Float[Any, "b t d"], v: Float[Any, "b t n dv"], log_a: Gates,
    state: Float[Any, "b n dv d"], reset: Reset | None,
) -> tuple[Any, Any]:  # fmt: skip
    return over_chunks(_chunk, state, (q, k, v, log_a), reset, k.shape[1])


def _chunk(state, q, k, v, log_a, reset):
    """q, k (B, L, D) and v (B, L, N, Dv) from state (B, N, Dv, D): the state after them, and o."""
    if reset is not None:
        log_a = jnp.where(reset[..., None], 0, log_a)
    decay, since = decays(log_a, reset)
    v = jnp.moveaxis(v, 1, 2)  # b n t i
    scores = decay * product("btd,bid->bti", q, k)[:, None]
    o = product("bnts,bnsi->bnti", scores, v) + since[..., None] * product("btj,bnij->bnti", q, state)
    ends = product("bnti,btj->bnij", decay[:, :, -1, :, None] * v, k)
    return since[..., -1, None, None] * state + ends, jnp.moveaxis(o, 1, 2)
