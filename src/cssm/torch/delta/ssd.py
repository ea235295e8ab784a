"""Decayed attention in chunks (state-space duality), as `cssm.ops.delta.ssd`."""

from .chunked import decays, over_chunks


def ssd(q, k, v, log_a, state, reset):
    return over_chunks(_chunk, state, (q, k, v, log_a), reset)


def _chunk(state, q, k, v, log_a, reset):
    """q, k (B, L, D) and v (B, L, N, Dv) from state (B, N, Dv, D): the state after them, and o."""
    decay, since = decays(log_a, reset)
    q, k, v, since = q[:, None], k[:, None], v.transpose(1, 2), since[..., None]  # b n t d
    o = (decay * (q @ k.mT)) @ v + since * (q @ state.mT)
    ends = (decay[:, :, -1, :, None] * v).mT @ k
    return since[:, :, -1:] * state + ends, o.transpose(1, 2)
