"""Training: the loop, its checkpoints, and evaluation."""

from .checkpoint import CheckpointStore, load_model
from .config import Plan, TrainConfig
from .evaluate import evaluate
from .interrupt import Interrupted
from .log import read_metrics
from .loop import train
from .optim import Optimizer, decay_mask, decays
from .report import Event, TrainResult
from .saved_config import load_config, save_config

__all__ = [
    "CheckpointStore",
    "Event",
    "Interrupted",
    "Optimizer",
    "Plan",
    "TrainConfig",
    "TrainResult",
    "decay_mask",
    "decays",
    "evaluate",
    "load_config",
    "load_model",
    "read_metrics",
    "save_config",
    "train",
]
