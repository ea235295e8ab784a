"""ImageNet-1k and Imagenette. One function is one row of a results table.

The data are in `--data-dir`: folders, records, or what `cssm data pack` wrote of them, which is read fastest. A
hundredth of train picks the best checkpoint; the published validation set is the test.
"""

from dataclasses import replace

from cssm.data import ImageNet, Imagenette
from cssm.data.augment import Photo
from cssm.models import ConvNeXtConfig, SimpleCSSMConfig, ViTConfig
from cssm.models.deit3 import LARGE
from cssm.tasks import Classify
from cssm.train import TrainConfig

from .registry import RECIPES
from .run import Run

IMAGES = 1_281_167  # of train


@RECIPES.register("imagenet_cssm")
def imagenet_cssm() -> Run:
    """ImageNet-1k, SimpleCSSM on 8 repeats of each image: the protocol of source 003, column ImageNet-1k.

    Command: `cssm train imagenet_cssm --data-dir shards`. Hardware: one GPU of 80 GB, some days. Expected: not yet
    measured here, none published for this model (SHViT-S1 with gdn, T = 8: 75.0).
    """
    return Run(
        recipe="imagenet_cssm",
        data=ImageNet(size=224, random_crop=0.08, interpolation="bicubic", crop_pct=0.875, holdout=0.01),
        model=SimpleCSSMConfig(
            embed_dim=192, depth=6, strides=(1, 1, 2, 1, 2, 1), seq_len=8, grid=(224, 224), num_classes=1000,
            stem="default", stem_layers=2, position="learned", norm="global_layer", mlp_ratio=4.0, layer_scale=1e-4,
            drop_path=0.1, unroll="block", pool="mean", readout="mean",
        ),
        task=Classify(label_smoothing=0.1),
        augment=Photo(policy="three", erasing=0.25, mixup=0.8, cutmix=1.0),
        train=TrainConfig(
            epochs=300, batch_size=512, lr=1e-3, weight_decay=5e-2, grad_clip=1.0, ema=0.9998, eval_every=5,
            compute_dtype="bfloat16",
        ),
    )  # fmt: skip


@RECIPES.register("deit3_large")
def deit3_large() -> Run:
    """ImageNet-1k, DeiT III-L: vision transformer with LayerScale, 3-Augment, binary cross-entropy, LAMB.

    Command: `cssm train deit3_large --data-dir shards --distributed`. Hardware: 8 GPUs of 80 GB, some days. Expected:
    test accuracy about .849 (Touvron et al. 2022, 800 epochs with repeated augmentation, which is not done here).
    """
    return Run(
        recipe="deit3_large",
        data=ImageNet(size=224, random_crop=0.08, interpolation="bicubic", crop_pct=1.0, holdout=0.01),
        model=LARGE,
        task=Classify(criterion="sigmoid"),
        augment=Photo(policy="three", mixup=0.8, cutmix=1.0),
        train=TrainConfig(
            epochs=800, batch_size=2048, optimizer="lamb", lr=3e-3, weight_decay=0.02, grad_clip=1.0,
            warmup_steps=5 * IMAGES // 2048, eval_every=5, compute_dtype="bfloat16",
        ),
    )  # fmt: skip


@RECIPES.register("cssm_deit3")
def cssm_deit3() -> Run:
    """ImageNet-1k, DeiT III-L with the opponent recurrence in place of attention, 8 repeats of each image.

    Command: `cssm train cssm_deit3 --data-dir shards --distributed`. Hardware: 8 GPUs of 80 GB, some days. Expected:
    not yet measured here, none published.
    """
    run = deit3_large()
    return replace(run, recipe="cssm_deit3", model=replace(run.model, mixer="opponent", timesteps=8))


@RECIPES.register("convnext_tiny")
def convnext_tiny() -> Run:
    """ImageNet-1k, ConvNeXt-T as published: RandAugment, Mixup, CutMix, erasing, EMA.

    Command: `cssm train convnext_tiny --data-dir shards --distributed`. Hardware: 8 GPUs, two days. Expected: test
    accuracy about .821 (Liu et al. 2022).
    """
    return Run(
        recipe="convnext_tiny",
        data=ImageNet(size=224, random_crop=0.08, interpolation="bicubic", crop_pct=0.875, holdout=0.01),
        model=ConvNeXtConfig(drop_path=0.1),
        task=Classify(label_smoothing=0.1),
        augment=Photo(policy="rand-m9-mstd0.5-inc1", erasing=0.25, mixup=0.8, cutmix=1.0),
        train=TrainConfig(
            epochs=300, batch_size=4096, lr=4e-3, weight_decay=5e-2, grad_clip=None, ema=0.9999,
            warmup_steps=20 * IMAGES // 4096, eval_every=5, compute_dtype="bfloat16",
        ),
    )  # fmt: skip


@RECIPES.register("convnext_ssm")
def convnext_ssm() -> Run:
    """ImageNet-1k, ConvNeXt-T with a recurrence of 7 x 7 kernels after each depthwise convolution, T = 8.

    Command: `cssm train convnext_ssm --data-dir shards --distributed`; `--init-from convnext_tiny.safetensors` begins
    with timm's weights. Hardware: 8 GPUs, three days. Expected: not yet measured here.
    """
    run = convnext_tiny()
    return replace(run, recipe="convnext_ssm", model=replace(run.model, variant="ssm", timesteps=8))


@RECIPES.register("imagenette_vit")
def imagenette_vit() -> Run:
    """Imagenette, a small ViT with the opponent recurrence in place of attention, T = 8: the quick start of source 002.

    Command: `cssm train imagenette_vit --data-dir DIR` (DIR holds imagenette2, -320 or -160). Hardware: one GPU, hours.
    Expected: not yet measured here. Beside it: `imagenette_baseline`.
    """
    return Run(
        recipe="imagenette_vit",
        data=Imagenette(size=160, random_crop=0.25, interpolation="bicubic", crop_pct=0.95, holdout=0.1),
        model=ViTConfig(mixer="opponent", timesteps=8, drop_path=0.05, layer_scale=1e-4, num_classes=10),
        task=Classify(label_smoothing=0.1),
        augment=Photo(policy="three", erasing=0.25, mixup=0.8, cutmix=1.0),
        train=TrainConfig(epochs=50, batch_size=32, lr=5e-4, weight_decay=5e-2, ema=0.999),
    )


@RECIPES.register("imagenette_baseline")
def imagenette_baseline() -> Run:
    """Imagenette, the same small ViT with attention: what `imagenette_vit` is compared with.

    Command: `cssm train imagenette_baseline --data-dir DIR`. Hardware: one GPU, hours. Expected: not yet measured here.
    """
    run = imagenette_vit()
    return replace(run, recipe="imagenette_baseline", model=replace(run.model, mixer="attention"))


@RECIPES.register("imagenette_convnext")
def imagenette_convnext() -> Run:
    """Imagenette, ConvNeXt-T with the recurrence of `convnext_ssm`: source 000's table.

    Command: `cssm train imagenette_convnext --data-dir DIR`. Hardware: one GPU, hours. Expected: not yet measured here.
    """
    run = imagenette_vit()
    return replace(run, recipe="imagenette_convnext", model=replace(convnext_ssm().model, num_classes=10))
