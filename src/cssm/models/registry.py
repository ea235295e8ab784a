"""Models by name: a registry of frozen configs whose `make(rngs)` builds the module."""

import dataclasses

from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.registry import Registry
from cssm.nn.layer import check_rngs

from .model import Model, ModelConfig

MODELS: Registry[ModelConfig] = Registry("model")


def list_models() -> list[str]:
    """Names of all registered models."""
    return MODELS.names()


def create_model(name: str, *, rngs: nnx.Rngs, **overrides) -> Model:
    """Build a registered model, with fields of its config overridden.

    Raises:
      UnknownNameError: no such model. UsageError: a field its config does not have, or a value the config refuses.

    >>> from flax import nnx
    >>> import jax.numpy as jnp
    >>> model = create_model("simple", rngs=nnx.Rngs(0), embed_dim=8, stem="pixel")
    >>> model(jnp.zeros((1, 4, 16, 16, 3))).shape
    (1, 2)
    """
    config = MODELS[name]
    check_rngs(rngs)
    known = {field.name for field in dataclasses.fields(config)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise UsageError(
            f"model {name!r} has no option {', '.join(unknown)}; its options are {', '.join(sorted(known))}"
        )
    return dataclasses.replace(config, **overrides).make(rngs)
