"""One step after another, vectorised over everything else: for heads over many frequencies.

The gradient keeps the state of every sqrt(T)-th step and computes the others again, a segment at a time.
"""

import math

import torch
from torch import Tensor

from cssm.core.typing import Reset
from cssm.shared.delta import Gain, Gates, Keys, Memory, Values

from ..transforms import checkpointed
from .reference import forget


def sequential(
    q: Keys, k: Keys, v: Values, alpha: Gates, beta: Gates, gain: Gain | None, state: Memory, reset: Reset | None,
    readout: str = "all",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    before, shape = state.shape, v.shape
    q, k, v = (a.flatten(4) if a.ndim > 4 else a[..., None] for a in (q, k, v))  # the frequencies as one axis
    state = state.flatten(4) if state.ndim > 4 else state[..., None]
    decay = alpha[..., None, None]  # b t n 1 1
    decay = decay if gain is None else decay * gain.reshape(gain.shape[0], 1, -1)
    steps = len(alpha.unbind(1))  # a plain number even where torch.compile makes shapes symbolic
    size = math.isqrt(steps - 1) + 1
    outputs = []
    for first in range(0, steps, size):
        part = slice(first, first + size)
        arrays = (a[:, part] for a in (q, k, v, decay, beta[..., None, None]))
        mask = None if reset is None else reset[:, part]
        state, o = checkpointed(_segment, state, *arrays, mask)
        outputs = [*outputs, o] if readout == "all" else [o[:, -1:]]
    o = torch.cat(outputs, 1).reshape(shape[0], -1, *shape[2:])
    return state.reshape(before), o if readout == "all" else o[:, -1]


def _segment(state, q, k, v, decay, beta, reset):
    """S (B, N, Dv, Dk, F) after the steps of q, k (B, L, N, Dk, F), and o (B, L, N, Dv, F)."""
    outputs = []
    for t in range(k.shape[1]):
        past, key = forget(state, reset, t), k[:, t]
        write = beta[:, t] * (v[:, t] - decay[:, t] * _apply(past, key))
        state = decay[:, t, :, None] * past + write[:, :, :, None] * key.conj()[:, :, None]
        outputs.append(_apply(state, q[:, t]))
    return state, torch.stack(outputs, 1)


def _apply(s, x):
    """sum_j S_ij x_j: (b n i j f), (b n j f) -> (b n i f)."""
    return (s * x[:, :, None]).sum(3)
