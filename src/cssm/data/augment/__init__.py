"""Augmentation of batches on the device: a function of a key, with one draw for each clip, so that frames stay aligned.

Augmentations run inside the jitted training step, before pixels are normalised. JAX is imported when one is called.
"""

from .flip_shift import FlipShift
from .photo import Photo
from .protocol import AUGMENTS, Arrays, Augment
from .views import Views

__all__ = ["AUGMENTS", "Arrays", "Augment", "FlipShift", "Photo", "Views"]
