"""How the files beside this one were made: tiny models of timm 1.0.31, random parameters, their logits. Run by hand.

    pip install timm; python tests/models/timm/make.py

Each file has the state dict under timm's names, and "input" (2, 3, H, W), "logits" of it, for two sizes.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent


def declare_missing_operators():
    """For an import of timm beside the CPU build of PyTorch, where torchvision's own operators cannot be loaded."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def shaken(model, seed=0):
    """Every parameter away from what hides the blocks: gamma near 1, biases and positions not 0."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        spread = 0.5 if "gamma" in name else 0.2
        with torch.no_grad():
            parameter.normal_(0, spread if parameter.ndim < 2 or "pos_embed" in name else parameter[0].numel() ** -0.5)
            if parameter.ndim == 1 and "weight" in name:
                parameter.add_(1.0)
    return model.eval()


def main():
    kept = declare_missing_operators()
    from timm.models.convnext import ConvNeXt
    from timm.models.vision_transformer import VisionTransformer

    vit = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    models = {
        "vit": VisionTransformer(**vit, dynamic_img_size=True),
        "deit3": VisionTransformer(**vit, dynamic_img_size=True, no_embed_class=True, init_values=1e-4),
        "convnext": ConvNeXt(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), num_classes=5),
        "convnext_1x1": ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 12, 12), num_classes=5, conv_mlp=True),
    }
    for name, model in models.items():
        arrays = dict(shaken(model).state_dict())
        for size in ((32, 32), (64, 32)):
            images = torch.randn(2, 3, *size)
            with torch.no_grad():
                arrays[f"input {size[0]}"], arrays[f"logits {size[0]}"] = images, model(images)
        save_file({key: value.contiguous() for key, value in arrays.items()}, HERE / f"{name}.safetensors")
    del kept


if __name__ == "__main__":
    sys.exit(main())
