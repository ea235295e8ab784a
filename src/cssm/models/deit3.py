"""DeiT III: vision transformers with LayerScale on both branches, positions for patches alone, uniform drop path.

Drop path and LayerScale are those of training (Touvron et al. 2022, DeiT III: Revenge of the ViT): rates .05, .2, .45
for small, base, large, gamma 1e-4 at the start. The module is `vit.VisionTransformer`.
"""

import dataclasses

from .registry import MODELS
from .vit import ViTConfig

SMALL = ViTConfig(class_position=False, layer_scale=1e-4, drop_path=0.05)
BASE = dataclasses.replace(SMALL, embed_dim=768, drop_path=0.2)
LARGE = dataclasses.replace(SMALL, embed_dim=1024, depth=24, drop_path=0.45)
MODELS.register("deit3_small_patch16_224")(SMALL)
MODELS.register("deit3_base_patch16_224")(BASE)
MODELS.register("deit3_large_patch16_224")(LARGE)
MODELS.register("deit3")(LARGE)  # names of `--arch`: source 002
MODELS.register("cssm_deit3")(dataclasses.replace(LARGE, mixer="opponent"))
