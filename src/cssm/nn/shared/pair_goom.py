"""h_t = M_t h_{t-1} + b_t of pairs of complex numbers on complex logarithms (ops/goom), with ordinary gradients.

Slower and less accurate than ordinary numbers for states that stay bounded; every M_t is materialised.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cssm.ops import goom


@jax.custom_vjp
def pair_scan(m, b, h0):
    """All states (T, 2, ...) for m (T, 2, 2, ...), b (T, 2, ...), h0 (2, ...), complex: row i, column j first.

    The gradient is that of ordinary numbers, at zeros too: s_t = g_t + M_{t+1}^T s_{t+1}, db = s, dM = s h^T.

    >>> m = jnp.broadcast_to(jnp.array([[0, 1], [1, 0]], jnp.complex64), (3, 2, 2))
    >>> pair_scan(m, jnp.ones((3, 2), jnp.complex64), jnp.array([0j, 5])).real.round(4)[:, 0].tolist()
    [6.0, 2.0, 8.0]
    """

    def step(h, now):
        m, b = now
        terms = goom.mul(m, h[None])
        h = goom.add(goom.add(terms[:, 0], terms[:, 1]), b)
        return h, goom.from_goom(h)

    return lax.scan(step, goom.to_goom(h0), (goom.to_goom(m), goom.to_goom(b)))[1]


def _forward(m, b, h0):
    h = pair_scan(m, b, h0)
    return h, (m, h0, h)


def _backward(saved, g):
    m, h0, h = saved
    later = jnp.concatenate([m[1:], jnp.zeros_like(m[:1])]).swapaxes(1, 2)
    s = jnp.flip(pair_scan(jnp.flip(later, 0), jnp.flip(g, 0), jnp.zeros_like(h0)), 0)
    before = jnp.concatenate([h0[None], h[:-1]])
    return s[:, :, None] * before[:, None], s, (m[0] * s[0][:, None]).sum(0)


pair_scan.defvjp(_forward, _backward)
