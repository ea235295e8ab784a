"""The delta rule with the same q, k, v, alpha, beta at every step, in closed form.

With mu = 1 - beta |k|^2, (I - beta k k^H)^m = I - beta G_m(mu) k k^H and k^H (I - beta k k^H)^m = mu^m k^H, where
G_m(z) = 1 + z + ... + z^(m-1). So S_m = c^m (S_0 - beta G_m(mu) (S_0 k) k^H) + beta G_m(c mu) v k^H, c = alpha W.
No division: exact also for k = 0, and at c mu = 1.
"""

from typing import Any

import jax.numpy as jnp

from cssm.core.typing import Float, Inexact

from ..scan.geometric import geometric


def static(
    q: Inexact[Any, "b n dk ..."], k: Inexact[Any, "b n dk ..."], v: Inexact[Any, "b n dv ..."],
    alpha: Float[Any, "b n"], beta: Float[Any, "b n"], steps: int, gain: Inexact[Any, "n ..."] | None,
    state: Inexact[Any, "b n dv dk ..."],
) -> tuple[Any, Any]:  # fmt: skip
    """(S_m, o_m) for q, k, v (B, N, D, ...), alpha, beta (B, N)."""
    gates = [g.reshape(*g.shape, *(1,) * (k.ndim - 2)) for g in (alpha, beta)]  # b n 1 ...
    decay = gates[0] if gain is None else gates[0] * gain[:, None]
    beta, norm = gates[1], jnp.square(jnp.abs(k)).sum(2, keepdims=True)
    keep = 1 - beta * norm
    power = geometric(decay, steps)[0]
    erased, written = geometric(keep, steps)[1], geometric(decay * keep, steps)[1]
    recall = jnp.einsum("bnij...,bnj...->bni...", state, k)
    change = beta * (written * v - power * erased * recall)
    state = power[:, :, None] * state + change[:, :, :, None] * k.conj()[:, :, None]
    return state, jnp.einsum("bnij...,bnj...->bni...", state, q)
