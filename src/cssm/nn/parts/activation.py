"""Activations by name."""

import jax

from cssm.core.errors import UsageError

ACTIVATIONS = {"softplus": jax.nn.softplus, "gelu": jax.nn.gelu, "relu": jax.nn.relu, "none": lambda x: x}


def activation(name: str):
    """The function of that name: softplus, gelu (by tanh, as in the sources), relu or none (x itself).

    Raises:
      UsageError: another name.

    >>> activation("relu")(-1.0).item()
    0.0
    """
    if name not in ACTIVATIONS:
        raise UsageError(f"unknown activation {name!r}: use {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
