"""Layers: the mixer contract, the mixers, and what stands around them."""

from . import mixers
from .decay_ssm import DecaySSM
from .mixer import MIXERS, Control, Mixer, create_mixer, list_mixers
from .s4 import S4

__all__ = ["MIXERS", "S4", "Control", "DecaySSM", "Mixer", "create_mixer", "list_mixers", "mixers"]
