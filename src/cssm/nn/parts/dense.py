"""The affine map of each pixel's channels."""

import math
from typing import Any

from flax import nnx

from cssm.core.typing import Float


class Dense(nnx.Linear):
    """y = x @ kernel + bias over the last axis, after any number of axes. Arguments are those of `flax.nnx.Linear`.

    The axes before the last are one in the product. With several, XLA on a CPU takes the kernel's gradient through a
    transposed copy of the cotangent, at twice the time.

    >>> import jax.numpy as jnp
    >>> Dense(4, 6, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 6)
    """

    def __call__(self, x: Float[Any, "*axes c"]):  # pyright: ignore[reportIncompatibleMethodOverride] (no out_sharding)
        *axes, channels = x.shape
        y = super().__call__(x.reshape(math.prod(axes), channels))
        return y.reshape(*axes, y.shape[-1])
