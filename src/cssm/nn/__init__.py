"""Layers: the mixer contract, the mixers, and what stands around them."""

from . import mixers
from .mixer import MIXERS, Control, Mixer, create_mixer, list_mixers

__all__ = ["MIXERS", "Control", "Mixer", "create_mixer", "list_mixers", "mixers"]
