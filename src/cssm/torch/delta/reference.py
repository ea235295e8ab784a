"""The delta rule and the decayed outer-product memory, written out: slow and obvious."""

import torch
from torch import Tensor

from cssm.core.typing import Float, Inexact, Reset
from cssm.shared.delta import Gain, Gates, Keys, Memory, Values


def delta_rule_reference(
    q: Keys, k: Keys, v: Values, alpha: Gates, beta: Gates, gain: Gain | None, state: Memory, reset: Reset | None,
    readout: str = "all",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """S <- alpha W S (I - beta k k^H) + beta v k^H, o = S q, one step at a time; arguments as `delta_rule`."""
    axes = (...,) + (None,) * (k.ndim - 2)  # a gate (B, N) beside b n d d ...
    eye = torch.eye(k.shape[3], dtype=k.dtype, device=k.device).reshape(*k.shape[3:4] * 2, *(1,) * (k.ndim - 4))
    gain, o = 1.0 if gain is None else gain[:, None, None], []
    for t in range(k.shape[1]):
        a, b, key = alpha[:, t][axes], beta[:, t][axes], k[:, t]
        kept = eye - b * key[:, :, :, None] * key[:, :, None].conj()  # I - beta k k^H
        state = a * gain * torch.einsum("bnij...,bnjl...->bnil...", forget(state, reset, t), kept)
        state = state + b * v[:, t, :, :, None] * key[:, :, None].conj()
        o.append(torch.einsum("bnij...,bnj...->bni...", state, q[:, t]))
    return state, torch.stack(o, 1) if readout == "all" else o[-1]


def decayed_attention_reference(
    q: Float[Tensor, "b t d"], k: Float[Tensor, "b t d"], v: Float[Tensor, "b t n dv"], log_a: Gates,
    state: Float[Tensor, "b n dv d"], reset: Reset | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """S <- exp(log_a) S + v k^T, o = S q, one step at a time; arguments as `decayed_attention`."""
    o = []
    for t in range(k.shape[1]):
        past = log_a[:, t].exp()[..., None, None] * forget(state, reset, t)
        state = past + v[:, t, :, :, None] * k[:, t, None, None]
        o.append(torch.einsum("bnij,bj->bni", state, q[:, t]))
    return state, torch.stack(o, 1)


def forget(state: Inexact[Tensor, "b ..."], reset: Reset | None, t: int) -> Inexact[Tensor, "b ..."]:
    """state, or 0 in the batch rows that restart at step t."""
    return state if reset is None else state.where(~reset[:, t][(...,) + (None,) * (state.ndim - 1)], 0)
