"""Chunks of tokens as matrix products (the WY form), and a state carried from chunk to chunk: real keys, no gain.

The equations are those of `cssm.ops.delta.chunked` and of its README.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cssm.core.errors import UsageError
from cssm.core.typing import Bool, Float, Reset
from cssm.shared.delta import Gain, Gates, Keys, Memory, Values

from ..transforms import checkpointed

CHUNK = 64  # tokens


def chunked(
    q: Keys, k: Keys, v: Values, alpha: Gates, beta: Gates, gain: Gain | None, state: Memory, reset: Reset | None,
    readout: str = "all",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if gain is not None or k.ndim != 4 or k.is_complex():
        raise UsageError("delta_rule: 'chunked' takes real tokens (B, T, N, D) without a gain; use 'sequential'")
    state, o = over_chunks(_chunk, state, (q, k, v, log_decay(alpha), beta), reset)
    return state, o if readout == "all" else o[:, -1]


def log_decay(alpha: Gates) -> Tensor:
    """log alpha for alpha >= 0, with the slope 1/alpha: below sqrt(tiny) (1e-19 in float32) alpha is taken as that.

    D is linear in alpha, so its slope, D over alpha, is the same at any alpha; at 0 it is 0/0. NaN where alpha < 0.
    """
    floor = math.sqrt(torch.finfo(alpha.dtype).tiny)
    return (alpha + (floor - alpha).where((alpha >= 0) & (alpha < floor), 0).detach()).log()


def over_chunks(
    chunk: Callable[..., tuple[Tensor, Tensor]],
    state: Float[Tensor, "b n dv dk"],
    arrays: tuple[Tensor, ...],
    reset: Reset | None,
) -> tuple[Tensor, Tensor]:
    """Carry a state through `chunk(state, *arrays of a chunk, reset)`; gradients keep the states between chunks."""
    outputs = []
    for first in range(0, arrays[0].shape[1], CHUNK):
        part = slice(first, first + CHUNK)
        pieces = (*(a[:, part] for a in arrays), None if reset is None else reset[:, part])
        state, o = checkpointed(chunk, state, *pieces)
        outputs.append(o)
    return state, torch.cat(outputs, 1)


def decays(
    log_a: Float[Tensor, "b l n"], reset: Bool[Tensor, "b l"] | None
) -> tuple[Float[Tensor, "b n l l"], Float[Tensor, "b n l"]]:
    """D (B, N, L, L): exp of the sum of log_a over (i, t], 0 where i > t or a reset lies between; and D_0 (B, N, L).

    log_a (B, L, N). Every exponent is a sum of its own steps, masked before exp: nothing cancels, nothing overflows.
    """
    log_a = (log_a if reset is None else log_a.where(~reset[..., None], 0)).mT  # b n t
    index = torch.arange(log_a.shape[-1], device=log_a.device)
    t, i = index[:, None], index
    sums = log_a[..., None].where(i < t, 0).cumsum(-2)
    seen, whole = i <= t, log_a.cumsum(-1)
    if reset is not None:
        starts = reset.cumsum(1)
        seen = seen & (starts[:, None, :, None] == starts[:, None, None])
        whole = whole.where(starts[:, None] == 0, -torch.inf)
    return sums.where(seen, -torch.inf).exp(), whole.exp()


def _chunk(state, q, k, v, log_alpha, beta, reset):
    """(B, L, N, D) tokens from state (B, N, Dv, Dk): the state after them, and o."""
    decay, since = decays(log_alpha, reset)
    q, k, v, beta = (a.transpose(1, 2) for a in (q, k, v, beta[..., None]))  # b n t d
    since = since[..., None]
    system = (beta * decay * (k @ k.mT)).tril(-1)
    error = beta * (v - since * (k @ state.mT))
    write = torch.linalg.solve_triangular(system, error, upper=False, unitriangular=True)  # b n t i
    o = since * (q @ state.mT) + (decay * (q @ k.mT)) @ write
    ends = (decay[:, :, -1, :, None] * write).mT @ k
    return since[:, :, -1:] * state + ends, o.transpose(1, 2)
