"""`gdn` as its source writes it: transition matrices materialised, one copy per row of S, and an associative scan."""

import jax.numpy as jnp
from jax import lax

from cssm.core.errors import UsageError
from cssm.nn.mixers.gdn import GDN
from cssm.ops import goom


def gdn_plain(mixer: GDN, x, *, numerics: str = "direct"):
    """mixer(x) with each row s of S on its own: s_t = M_t^T s_{t-1} + beta v k*, M = alpha W (I - beta k k^H).

    M is (B, T, heads d, d, d, H, Wf) and the scan takes log2 T passes over it, on complex64 ("direct") or on complex
    logarithms ("goom", the source's default). The convention of M is right, unlike the source's.

    Raises: UsageError: other numerics.
    """
    if numerics not in ("direct", "goom"):
        raise UsageError(f"unknown numerics {numerics!r} of gdn_plain: use direct or goom")
    u = mixer.convolved(mixer.time_conv.init_state(x.shape[0], x.shape[2:4]), x, None)[1]
    q, k, v = mixer.projections(u)
    alpha, beta = (gate[..., None, None, None, None] for gate in mixer.gates(x))  # b t n 1 1 1 1
    d = k.shape[3]
    outer = k[:, :, :, :, None] * k[:, :, :, None].conj()  # k k^H: b t n j l h wf
    eye = jnp.eye(d)[:, :, None, None]
    matrices = alpha * mixer.gain(x.shape[2:4])[:, None, None] * (eye - beta * outer)
    matrices = jnp.repeat(matrices.swapaxes(3, 4), d, 2)  # the same for each of the d rows
    writes = beta * v[:, :, :, :, None] * k[:, :, :, None].conj()  # b t n i j h wf
    rows = writes.reshape(*writes.shape[:2], -1, *writes.shape[4:])
    scan = _direct if numerics == "direct" else _goom
    states = scan(matrices, rows).reshape(writes.shape)
    return mixer.output(x, mixer.field(jnp.einsum("btnijhw,btnjhw->btnihw", states, q), x.shape[3]))


def _direct(matrices, rows):
    def combine(first, second):
        (m1, b1), (m2, b2) = first, second
        return (
            jnp.einsum("btnijhw,btnjlhw->btnilhw", m2, m1),
            jnp.einsum("btnijhw,btnjhw->btnihw", m2, b1) + b2,
        )

    return lax.associative_scan(combine, (matrices, rows), axis=1)[1]


def _goom(matrices, rows):
    def product(a, b):  # (..., i, j, h, w) x (..., j, h, w), each sum of logarithms over j
        return goom.sum(goom.mul(a, b[:, :, :, None]), 4)

    def combine(first, second):
        (m1, b1), (m2, b2) = first, second
        columns = [product(m2, m1[:, :, :, :, i]) for i in range(m1.shape[4])]
        return jnp.stack(columns, 4), goom.add(product(m2, b1), b2)

    return goom.from_goom(lax.associative_scan(combine, (goom.to_goom(matrices), goom.to_goom(rows)), axis=1)[1])
