"""The multilayer perceptron of a block, pixel by pixel."""

from typing import Any

import jax
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float

from .dense import Dense


class MLP(nnx.Module):
    """Dense(C -> ratio C), GELU, Dense(ratio C -> C), with the exact GELU x Phi(x), not its tanh form.

    Args:
      channels: C. ratio: hidden channels per channel, e.g. 4.

    Source: Vaswani et al. 2017; Hendrycks and Gimpel 2016 (GELU).

    >>> import jax.numpy as jnp
    >>> MLP(4, 2.5, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    def __init__(self, channels: int, ratio: float, *, rngs: nnx.Rngs):
        hidden = int(ratio * channels)
        if hidden < 1:
            raise UsageError(f"mlp_ratio is {ratio}, expected at least one hidden channel for {channels} channels")
        self.up = Dense(channels, hidden, rngs=rngs)
        self.down = Dense(hidden, channels, rngs=rngs)

    def __call__(self, x: Float[Any, "*axes c"]) -> Float[Any, "*axes c"]:
        return self.down(jax.nn.gelu(self.up(x), approximate=False))
