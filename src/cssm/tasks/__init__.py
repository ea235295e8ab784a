"""Tasks: a batch becomes a loss and metrics. One file each; `Task` is what they have in common."""

from .classify import Classify
from .task import Task

__all__ = ["Classify", "Task"]
