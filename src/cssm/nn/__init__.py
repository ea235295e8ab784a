"""Layers: the protocol of what streams, the mixers, and what stands around them."""

from . import mixers
from .layer import Layer
from .layers.decay_ssm import DecaySSM
from .layers.s4 import S4
from .mixer import MIXERS, Control, Mixer, create_mixer, document_options, list_mixers
from .parameter import RecurrenceParam

__all__ = [
    "MIXERS", "S4", "Control", "DecaySSM", "Layer", "Mixer", "RecurrenceParam", "create_mixer", "list_mixers",
    "mixers",
]  # fmt: skip
document_options()
