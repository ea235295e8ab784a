"""Tasks: a batch becomes a loss, figures, a picture. One file each; `Task` is what they have in common."""

from .classify import Classify
from .lejepa import LeJEPA
from .task import Loss, Monitor, Task
from .track import Track

__all__ = ["Classify", "LeJEPA", "Loss", "Monitor", "Task", "Track"]
