"""Training: the loop, its checkpoints, and evaluation."""

from .checkpoint import CheckpointStore, load_model
from .config import Plan, TrainConfig
from .configfile import load_config, save_config
from .evaluate import evaluate
from .interrupt import Interrupted
from .log import read_metrics
from .loop import train
from .optim import Optimizer, decay_mask, decays
from .report import Event, TrainResult

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
