"""Tasks: a batch becomes a loss, figures, a picture. One file each; `Task` is what they have in common."""

from .classify import Classify
from .task import Loss, Monitor, Task
from .track import Track

__all__ = ["Classify", "Loss", "Monitor", "Task", "Track"]
