"""One file per architecture: a frozen config with `make(rngs)`, and its module."""

from . import deit3 as deit3
from .convnext import ConvNeXt, ConvNeXtConfig
from .host import Host
from .model import Model, ModelConfig
from .registry import MODELS, create_model, list_models
from .simple import SimpleCSSM, SimpleCSSMConfig
from .timm_weights import Loaded, load_timm, save_timm, timm_arrays
from .tracker import Tracker, TrackerConfig
from .vit import VisionTransformer, ViTConfig

__all__ = [
    "MODELS", "ConvNeXt", "ConvNeXtConfig", "Host", "Loaded", "Model", "ModelConfig", "SimpleCSSM", "SimpleCSSMConfig",
    "Tracker", "TrackerConfig",
    "ViTConfig", "VisionTransformer", "create_model", "list_models", "load_timm", "save_timm", "timm_arrays",
]  # fmt: skip
