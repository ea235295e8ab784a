"""The precision of states and recurrences: float32 at least, float64 where it is given."""

import jax
import jax.numpy as jnp


def wide(array) -> jax.Array:
    """bfloat16 and float16 as float32; float32, float64 and complex numbers as they are.

    >>> wide(jnp.zeros(2, jnp.bfloat16)).dtype.name
    'float32'
    """
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
