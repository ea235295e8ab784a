"""LeJEPA: training without labels. One function is one full run.

Labels train the probe alone: gradients are not clipped, by a common norm of which it would be a part. They choose the
best checkpoint; `--checkpoint last` is the one without them.
"""

from cssm.data import ImageNet, TenPhotographs
from cssm.data.augment import Views
from cssm.models import SimpleCSSMConfig, ViTConfig
from cssm.tasks import LeJEPA
from cssm.train import TrainConfig

from .registry import RECIPES
from .run import Run


@RECIPES.register("lejepa")
def lejepa() -> Run:
    """ImageNet-1k without labels: two global and six local views that predict each other, recurrent ViT-S.

    Command: `cssm train lejepa --data-dir shards`, then `cssm eval RUN --probe linear`. Hardware: one GPU of 80 GB, a
    day (source 003: 16 h on one). Expected: not yet measured here, no number published.
    """
    return Run(
        recipe="lejepa",
        data=ImageNet(size=224, interpolation="bicubic", crop_pct=0.875, holdout=0.01),
        model=ViTConfig(mixer="no_gate", timesteps=8, layer_scale=1e-4, drop_path=0.05, pool="mean"),
        task=LeJEPA(
            embedding=64, hidden=2048, blocks=(-1, -5), form="lejepa", interval=(0.0, 3.0), slices=1024,
            prediction_weight=0.95, sigreg_weight=0.05,
        ),
        augment=Views(),
        train=TrainConfig(
            epochs=100, batch_size=256, lr=5e-4, weight_decay=5e-2, ema=None, eval_every=2, compute_dtype="bfloat16",
            warmup_steps=5000, grad_clip=None,
        ),
    )  # fmt: skip


@RECIPES.register("lejepa_small")
def lejepa_small() -> Run:
    """Crops of ten photographs without labels, recurrent and small: 17 minutes on one CPU core.

    Command: `cssm train lejepa_small`, then `cssm eval RUN --probe linear --checkpoint last`. Hardware: any CPU.
    Expected: linear probe .864 +- .007 of the test split, .829 +- .012 of random features, .532 of pixels.
    """
    return Run(
        recipe="lejepa_small",
        data=TenPhotographs(size=64),
        model=SimpleCSSMConfig(
            embed_dim=96, depth=3, seq_len=2, stem="patch", patch_size=8, position="none", norm="layer", mlp_ratio=2.0,
            unroll="block", pool="mean", num_classes=10,
        ),
        task=LeJEPA(embedding=16, hidden=256, blocks=(-1,), form="lejepa", sigreg_weight=0.3),
        augment=Views(global_views=2, local_views=2, local_size=32, local_scale=(0.1, 0.4), policy="none"),
        train=TrainConfig(
            steps=2000, batch_size=64, lr=1e-3, weight_decay=1e-2, warmup_steps=100, eval_every=250, grad_clip=None
        ),
    )  # fmt: skip
