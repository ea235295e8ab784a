"""One file per architecture: a frozen config with `make(rngs)`, and its module."""

from typing import Any

from .registry import MODELS, create_model, list_models
from .simple import SimpleCSSM, SimpleCSSMConfig

ModelConfig = Any
__all__ = ["MODELS", "ModelConfig", "SimpleCSSM", "SimpleCSSMConfig", "create_model", "list_models"]
