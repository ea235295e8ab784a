"""One file per architecture: a frozen config with `make(rngs)`, and its module."""

from . import deit3 as deit3
from .convnext import ConvNeXt, ConvNeXtConfig
from .host import Host
from .model import Model, ModelConfig
from .registry import MODELS, create_model, list_models
from .simple import SimpleCSSM, SimpleCSSMConfig
from .vit import VisionTransformer, ViTConfig

__all__ = [
    "MODELS", "ConvNeXt", "ConvNeXtConfig", "Host", "Model", "ModelConfig", "SimpleCSSM", "SimpleCSSMConfig",
    "ViTConfig", "VisionTransformer", "create_model", "list_models",
]  # fmt: skip
