"""A product over the leading axis by halving: log2 T passes, and rounding errors that grow with them, not with T."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from cssm.core.typing import Complex


def halve(z: Complex[Any, "t *rest"], combine: Callable[..., Any]) -> Complex[Any, "*rest"]:
    """combine(z_0, z_1, ..) over axis 0, neighbours first; the order is kept."""
    while len(z) > 1:
        pairs = len(z) // 2 * 2
        z = jnp.concatenate([combine(z[0:pairs:2], z[1:pairs:2]), z[pairs:]])
    return z[0]
