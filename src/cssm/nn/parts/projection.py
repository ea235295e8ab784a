"""Features to embeddings, for self-supervision."""

from typing import Any

import jax
from flax import nnx

from cssm.core.typing import Float

from .dense import Dense
from .norm import ChannelNorm


class Projection(nnx.Module):
    """Dense(C -> hidden), LayerNorm, GELU, Dense(hidden -> P).

    >>> import jax.numpy as jnp
    >>> Projection(4, 16, 8, rngs=nnx.Rngs(0))(jnp.zeros((2, 3, 4))).shape
    (2, 3, 8)
    """

    def __init__(self, channels: int, hidden: int, outputs: int, *, rngs: nnx.Rngs):
        self.up = Dense(channels, hidden, rngs=rngs)
        self.norm = ChannelNorm(hidden, rngs=rngs)
        self.down = Dense(hidden, outputs, rngs=rngs)

    def __call__(self, x: Float[Any, "*axes c"]) -> Float[Any, "*axes p"]:
        return self.down(jax.nn.gelu(self.norm(self.up(x)), approximate=False))
