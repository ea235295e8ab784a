"""One file per architecture: a frozen config with `make(rngs)`, and its module."""

from .model import Model, ModelConfig
from .registry import MODELS, create_model, list_models
from .simple import SimpleCSSM, SimpleCSSMConfig

__all__ = ["MODELS", "Model", "ModelConfig", "SimpleCSSM", "SimpleCSSMConfig", "create_model", "list_models"]
