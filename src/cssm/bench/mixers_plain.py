"""Gated mixers written the plain way, on complex logarithms over gates materialised per frame, channel and frequency.

The form of the reference code, from the mixer's own parameters: what the frame-by-frame mixers are measured against,
and an independent witness of their numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cssm.nn.mixers.opponent import to_field, transition
from cssm.ops import goom
from cssm.ops.spectral.native_transform import plain_to_space as to_space
from cssm.ops.spectral.native_transform import plain_to_spectrum as to_spectrum


def gated_goom(mixer: Any, x, *, implementation: str = "associative"):
    """`gated` of a clip (B, T, H, W, C) by goom.scan with (B, T, C, H, Wf) transitions and inputs.

    implementation: of goom.scan; "associative" is what the reference code uses.

    >>> from flax import nnx
    >>> from cssm.nn import create_mixer
    >>> mixer, x = create_mixer("gated", channels=2, rngs=nnx.Rngs(0)), jnp.ones((1, 3, 4, 4, 2))
    >>> bool(jnp.allclose(gated_goom(mixer, x), mixer(x), atol=1e-5))
    True
    """
    past = mixer.time_conv.init_state(x.shape[0], x.shape[2:4])
    u = jax.nn.silu(mixer.time_conv.scan(past, mixer.space_conv(mixer.inner(x)))[1])
    gates = mixer.gates(u.mean((2, 3)), x.shape[2:4])
    rows, columns = (jax.nn.softplus(logit) for logit in gates["step"])
    total = _dense(rows, columns, jnp.add)
    a = mixer.kernel(x.shape[2:4]) * jnp.exp(-total)
    b = total * _dense(*gates["write"]) * to_spectrum(u)
    states = goom.from_goom(goom.scan(goom.to_goom(a), goom.to_goom(b), implementation=implementation))
    y = to_space(_dense(*gates["read"]) * states, x.shape[3])
    return mixer.out(y.astype(x.dtype) * jax.nn.silu(mixer.gate(x)))


def opponent_goom(mixer: Any, x, *, implementation: str = "associative"):
    """`opponent` of a clip (B, T, H, W, C): 2 x 2 matrices of GOOMs, (T, B, C, H, Wf, 2, 2), multiplied as a tree.

    implementation: "associative" as in the reference code, or "sequential", one frame after another.

    >>> from flax import nnx
    >>> from cssm.nn import create_mixer
    >>> mixer, x = create_mixer("opponent", channels=2, rngs=nnx.Rngs(0)), jnp.ones((1, 3, 4, 4, 2))
    >>> bool(jnp.allclose(opponent_goom(mixer, x), mixer(x), atol=1e-5))
    True
    """
    shown = mixer.clock.scan(mixer.clock.init_state(x.shape[0]), x.shape[1])[1]
    rows, write = transition(mixer.transition_parts(x.shape[2:4]), mixer.rho, mixer.factors(x, shown))
    write = write * to_spectrum(x)
    m = jnp.stack([jnp.stack(jnp.broadcast_arrays(*row), -1) for row in rows], -2).astype(write.dtype)
    b = jnp.stack([write, jnp.zeros_like(write)], -1)[..., None]
    m, b = (goom.to_goom(jnp.moveaxis(v, 1, 0)) for v in (m, b))  # t b c h wf 2 2, t b c h wf 2 1
    if implementation == "sequential":
        states = lax.scan(_step, goom.zeros(b.shape[1:], b.dtype), (m, b))[1]
    else:
        states = lax.associative_scan(_combine, (m, b))[1]
    states = jnp.moveaxis(goom.from_goom(states)[..., 0], 0, 1)
    return mixer.out(to_field((states[..., 0], states[..., 1]), x.shape[3]).astype(x.dtype))


def _step(h, now):
    h = goom.add(goom.matmul(now[0], h), now[1])
    return h, h


def _combine(first, second):
    """(M1, b1) then (M2, b2): (M2 M1, M2 b1 + b2)."""
    (m1, b1), (m2, b2) = first, second
    return goom.matmul(m2, m1), goom.add(goom.matmul(m2, b1), b2)


def _dense(rows, columns, combine=jnp.multiply):
    """(B, T, H) and (B, T, Wf) -> (B, T, 1, H, Wf)."""
    return combine(rows[..., None, :, None], columns[..., None, None, :])
