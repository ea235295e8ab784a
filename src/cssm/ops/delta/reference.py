"""The delta rule and the decayed outer-product memory, written out: slow and obvious."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Float, Reset
from cssm.shared.delta import Gain, Gates, Keys, Memory, Values


def delta_rule_reference(
    q: Keys, k: Keys, v: Values, alpha: Gates, beta: Gates, gain: Gain | None, state: Memory, reset: Reset | None,
    readout: str = "all",
) -> tuple[Any, Any]:  # fmt: skip
    """S <- alpha W S (I - beta k k^H) + beta v k^H, o = S q, one step at a time; arguments as `delta_rule`."""
    ones = (1,) * (k.ndim - 3)
    eye = jnp.eye(k.shape[3]).reshape(k.shape[3], k.shape[3], *ones[1:])
    gain = 1.0 if gain is None else gain[:, None, None]
    restarts = jnp.zeros(k.shape[:2], bool) if reset is None else reset

    def step(s, now):
        q, k, v, alpha, beta, reset = now
        alpha, beta = (gate.reshape(*gate.shape, 1, *ones) for gate in (alpha, beta))  # b n 1 1 ...
        kept = eye - beta * k[:, :, :, None] * k[:, :, None].conj()  # I - beta k k^H: b n d d ...
        past = jnp.where(reset.reshape(-1, *(1,) * (s.ndim - 1)), 0, s)
        s = alpha * gain * jnp.einsum("bnij...,bnjl...->bnil...", past, kept)
        s = s + beta * v[:, :, :, None] * k[:, :, None].conj()
        return s, jnp.einsum("bnij...,bnj...->bni...", s, q)

    state, o = lax.scan(step, state, tuple(jnp.moveaxis(a, 1, 0) for a in (q, k, v, alpha, beta, restarts)))
    return state, jnp.moveaxis(o, 0, 1) if readout == "all" else o[-1]


def decayed_attention_reference(
    q: Float[Any, "b t d"], k: Float[Any, "b t d"], v: Float[Any, "b t n dv"], log_a: Gates,
    state: Float[Any, "b n dv d"], reset: Reset | None,
) -> tuple[Any, Any]:  # fmt: skip
    """S <- exp(log_a) S + v k^T, o = S q, one step at a time; arguments as `decayed_attention`."""
    restarts = jnp.zeros(k.shape[:2], bool) if reset is None else reset

    def step(s, now):
        q, k, v, log_a, reset = now
        past = jnp.where(reset[:, None, None, None], 0, s)
        s = jnp.exp(log_a)[..., None, None] * past + jnp.einsum("bni,bj->bnij", v, k)
        return s, jnp.einsum("bnij,bj->bni", s, q)

    state, o = lax.scan(step, state, tuple(jnp.moveaxis(a, 1, 0) for a in (q, k, v, log_a, restarts)))
    return state, jnp.moveaxis(o, 0, 1)
