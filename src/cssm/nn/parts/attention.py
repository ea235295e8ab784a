"""Multi-head attention, and the mixer of a plain vision transformer."""

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Video

from ..mixer import Control
from .dense import Dense
from .position import rotary_angles, rotate


class Attention(nnx.Module):
    """Multi-head attention over the tokens of "... n c", with optional rotary angles "... n c/2" on q and k."""

    def __init__(self, channels: int, heads: int, *, rngs: nnx.Rngs):
        if heads < 1:
            raise UsageError(f"attention: heads is {heads}, expected at least 1")
        if channels % (2 * heads):
            raise UsageError(f"attention: {channels} channels do not split into {heads} heads of even width")
        self.heads = heads
        self.qkv = Dense(channels, 3 * channels, rngs=rngs)
        self.out = Dense(channels, channels, rngs=rngs)

    def __call__(self, x, angles=None):
        q, k, v = jnp.split(self.qkv(x), 3, -1)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        split = lambda z: z.reshape(*z.shape[:-1], self.heads, -1)  # noqa: E731
        attend = _attention if q.dtype == jnp.float64 else jax.nn.dot_product_attention
        y = attend(*(split(z).reshape(-1, *split(z).shape[-3:]) for z in (q, k, v)))
        return self.out(y.reshape(x.shape))


def _attention(q, k, v):
    """softmax(q k^T / sqrt(d)) v for float64 (B, N, heads, d): JAX's own takes its softmax in float32."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)


class SelfAttention(Control):
    """Attention among the places of each frame, as in ViT: no position of its own, no norm, no MLP.

    Args:
      channels: C. heads: of C / heads channels each. rotary: q and k are turned by their positions.

    Source: Dosovitskiy et al. 2021, An image is worth 16x16 words.

    >>> SelfAttention(8, 2, rngs=nnx.Rngs(0))(jnp.zeros((1, 2, 4, 4, 8))).shape
    (1, 2, 4, 4, 8)
    """

    frame_wise = True

    def __init__(self, channels: int, heads: int, *, rotary: bool = False, rngs: nnx.Rngs):
        self.channels, self.rotary = channels, rotary
        self.attention = Attention(channels, heads, rngs=rngs)

    def _mix(self, x: Video) -> Video:
        angles = rotary_angles(*x.shape[1:]) if self.rotary else None
        tokens = (*x.shape[:2], -1, x.shape[-1])
        angles = None if angles is None else angles.reshape(x.shape[1], -1, angles.shape[-1])
        return self.attention(x.reshape(tokens), angles).reshape(x.shape)
