"""Models by name: a registry of frozen configs whose `make(rngs)` builds the module."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.registry import Registry
from cssm.nn.layer import check_rngs

from .model import Model, ModelConfig

log = logging.getLogger("cssm")
Source = str | os.PathLike | Mapping[str, np.ndarray]
MODELS: Registry[ModelConfig] = Registry("model")


def list_models() -> list[str]:
    """Names of all registered models."""
    return MODELS.names()


def create_model(name: str, *, rngs: nnx.Rngs, init_from: Source | None = None, **overrides) -> Model:
    """Build a registered model, with fields of its config overridden.

    Args:
      name: see `list_models()`. rngs: of the initial parameters. overrides: fields of its config.
      init_from: a safetensors file, or name -> array, of timm's model of that kind: what fits is taken (`load_timm`),
        and what has become of the rest is logged. A ConvNeXt with a mixer inside starts as the plain one.

    Raises:
      UnknownNameError: no such model. UsageError: a field its config does not have, or a value the config refuses; a
        file that does not fit.

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
    config = dataclasses.replace(config, **overrides)
    if init_from is None:
        return config.make(rngs)
    from .timm_weights import load_timm, read_arrays

    arrays = read_arrays(init_from)
    model = warm_started(config, arrays).make(rngs)
    log.info("%s", load_timm(model, arrays))
    return model


def warm_started(config: Any, source: Source) -> Any:
    """The configuration that takes a file of timm: a ConvNeXt's depthwise convolutions have a bias if those do.

    Raises:
      UsageError: no such file, or another kind of file.
    """
    from .timm_weights import read_arrays

    arrays = read_arrays(source)
    undecided = getattr(config, "conv_bias", False) is None and config.variant in ("fft", "ssm", "gated", "conv3d")
    if not undecided or not any(name.endswith("conv_dw.bias") for name in arrays):
        return config
    return dataclasses.replace(config, conv_bias=True)
