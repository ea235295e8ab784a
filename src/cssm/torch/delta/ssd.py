"""Decayed attention in chunks (state-space duality), as `cssm.ops.delta.ssd`."""

from torch import Tensor

from cssm.core.typing import Float, Reset
from cssm.shared.delta import Gates

from .chunked import decays, over_chunks


def ssd(
    q: Float[Tensor, "b t d"], k: Float[Tensor, "b t d"], v: Float[Tensor, "b t n dv"], log_a: Gates,
    state: Float[Tensor, "b n dv d"], reset: Reset | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return over_chunks(_chunk, state, (q, k, v, log_a), reset)


def _chunk(state, q, k, v, log_a, reset):
    """q, k (B, L, D) and v (B, L, N, Dv) from state (B, N, Dv, D): the state after them, and o."""
    decay, since = decays(log_a, reset)
    q, k, v, since = q[:, None], k[:, None], v.transpose(1, 2), since[..., None]  # b n t d
    o = (decay * (q @ k.mT)) @ v + since * (q @ state.mT)
    ends = (decay[:, :, -1, :, None] * v).mT @ k
    return since[:, :, -1:] * state + ends, o.transpose(1, 2)
