"""The one check of a reset mask."""

import jax.numpy as jnp

from cssm.core.errors import ShapeError


def check_reset(name: str, reset, shape) -> None:
    """A ShapeError unless reset is None or bool of that shape, (B, T).

    >>> check_reset("linear_scan", jnp.zeros((2, 3), bool), (2, 3))
    """
    if reset is None:
        return
    if jnp.shape(reset) != tuple(shape):
        raise ShapeError(f"{name}: reset has shape {jnp.shape(reset)}, expected {tuple(shape)} (B, T)")
    if not jnp.issubdtype(jnp.result_type(reset), jnp.bool_):
        raise ShapeError(f"{name}: reset is {jnp.result_type(reset)}, expected bool: compare it with 0")
