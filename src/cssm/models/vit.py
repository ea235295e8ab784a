"""Vision transformers, with attention or with any mixer in its place.

    tokens = patches(x) + positions           one vector of C channels per p x p pixels; a class token first, or not
    depth times: x <- x + gamma mixer(LayerNorm(x));   x <- x + gamma' MLP(LayerNorm(x))        exact GELU
    logits = Dense(LayerNorm(class token, or pool over space))

With attention and a class token it is timm's model of that name, weight for weight (`cssm.models.load_timm`). With a
mixer the tokens keep their grid (B, H / p, W / p, C) and there is no class token; images stand for `timesteps` repeats,
clips carry their states from frame to frame, and it streams where the mixer does.

Source: Dosovitskiy et al. 2021, An image is worth 16x16 words; 002 (`CSSMViT`); docs/math.md section 6.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Grid
from cssm.nn.block import Block
from cssm.nn.mixer import MIXERS
from cssm.nn.parts.attention import SelfAttention
from cssm.nn.parts.drop_path import check_rate
from cssm.nn.parts.readout import Readout
from cssm.nn.parts.tokens import POSITIONS, Tokens
from cssm.nn.stack import check_unroll
from cssm.shared.annotations import check_fields

from .host import Host
from .model import check_sizes, drop_rates, fitted_to
from .registry import MODELS

ATTENTION = "attention"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Options of VisionTransformer. `make(rngs)` builds it.

    Raises UsageError for a value of another type, or out of range.
    """

    mixer: str = ATTENTION
    """attention (within each frame), or a mixer registry key; see `cssm list mixers`."""
    mixer_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of the mixer, e.g. {"kernel_size": 15}."""
    embed_dim: int = 384
    """Channels."""
    depth: int = 12
    """Blocks."""
    head_dim: int = 64
    """Channels of a head of attention; there are embed_dim / head_dim heads, at least one."""
    mlp_ratio: float = 4.0
    """Hidden channels of the MLP per channel."""
    patch_size: int = 16
    """Pixels along each side of a patch; frames must be multiples of it."""
    grid: Grid = (224, 224)
    """(H, W) of the training frames, in pixels; positions are resampled elsewhere."""
    position: str = "learned"
    """learned (a table, resampled to other grids), mrope (rotary over time, height, width) or none."""
    class_token: bool | None = None
    """A token in front that is read; with attention alone. None: there, unless positions are rotary."""
    class_position: bool = True
    """A position of its own for the class token, in addition."""
    layer_scale: float | None = None
    """Initial value of a learned factor per channel on what each branch adds; None for no factor."""
    drop_path: float = 0.0
    """Probability of skipping what a branch adds, for a sample, in training."""
    drop_path_schedule: str = "uniform"
    """uniform, or linear: from 0 in the first block to drop_path in the last."""
    timesteps: int = 8
    """Frames that a static image stands for; without effect on attention."""
    unroll: str = "block"
    """What a static image means: block (every block repeats its own input from no past and passes its last output on)
    or network (the frame repeated). Clips and streams carry their states either way."""
    time_table: int | None = None
    """Rows of a learned table (zero at first) whose rows, resampled to the frames of a clip, are added to what every
    mixer sees: it can tell the frames apart. None: no table. A model with one cannot stream."""
    pool: str | None = None
    """token, mean or max over space. None: the class token where there is one, else the mean."""
    readout: str = "last"
    """Frames read: last, mean or all."""
    remat: bool = False
    """Memory of a training step: keep what goes into every block, and compute the block again for its gradient."""
    num_classes: int = 1000
    """Logits."""
    in_channels: int = 3
    """Channels of the frames."""

    def __post_init__(self):
        check_fields(self)
        check_sizes(self, "embed_dim", "depth", "head_dim", "timesteps", "num_classes", "in_channels")
        if self.position not in POSITIONS:
            raise UsageError(f"unknown position {self.position!r}: use {', '.join(POSITIONS)}")
        check_rate(self.drop_path)
        check_unroll(self.unroll)
        attends = self.mixer == ATTENTION
        if self.mlp_ratio <= 0:
            raise UsageError(f"mlp_ratio is {self.mlp_ratio}, expected more than 0")
        if attends and self.unroll == "network":
            raise UsageError("unroll='network' carries states from frame to frame, and attention has none: use 'block'")
        if attends and self.mixer_options:
            raise UsageError("mixer_options are for mixers: attention has head_dim alone")
        if attends and self.embed_dim % self.heads:
            raise UsageError(f"embed_dim {self.embed_dim} does not split into {self.heads} heads of {self.head_dim}")
        if attends and self.time_table is not None:
            raise UsageError("time_table tells frames apart, and attention looks at each alone: leave it out")
        if self.class_token and (not attends or self.position == "mrope"):
            raise UsageError("class_token: tokens keep their grid with a mixer or rotary positions; leave it out")
        if self.pool == "token" and not self.has_class_token:
            raise UsageError("pool='token' reads a class token, and there is none: use mean or max")
        drop_rates(self.drop_path, self.depth, self.drop_path_schedule)

    @property
    def heads(self) -> int:
        """Of attention."""
        return max(1, self.embed_dim // self.head_dim)

    @property
    def has_class_token(self) -> bool:
        """Whether one is there."""
        return self.mixer == ATTENTION and self.position != "mrope" if self.class_token is None else self.class_token

    def make(self, rngs: nnx.Rngs) -> "VisionTransformer":
        """The model with its initial parameters."""
        return VisionTransformer(self, rngs=rngs)

    def fitted(self, input_shape: tuple[int, ...], outputs: int) -> "ViTConfig":
        """The configuration for images (H, W, C) or clips (T, H, W, C), and that many classes.

        >>> fitted = ViTConfig().fitted((16, 64, 96, 3), 10)
        >>> fitted.timesteps, fitted.grid, fitted.num_classes
        (16, (64, 96), 10)
        """
        return fitted_to(self, input_shape, outputs, frames="timesteps")


class VisionTransformer(Host):
    """The model of a `ViTConfig`.

    `features` are (B, H / p, W / p, C); with a class token (B, 1, 1 + N, C), the class token first.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> model = ViTConfig(mixer="no_gate", embed_dim=8, depth=2, grid=(32, 32), num_classes=5).make(nnx.Rngs(0))
    >>> [jax.eval_shape(f, jnp.zeros((2, 4, 32, 48, 3))).shape for f in (model, model.features)]
    [(2, 5), (2, 2, 3, 8)]
    """

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        stem = Tokens(
            config.in_channels, config.embed_dim, config.grid, config.patch_size, learned=config.position == "learned",
            class_token=config.has_class_token, class_position=config.class_position, rngs=rngs,
        )  # fmt: skip
        inside = config.position == "mrope" and (config.mixer == ATTENTION or MIXERS[config.mixer].turns_inside)
        pool = config.pool or ("token" if config.has_class_token else "mean")
        self._assemble(
            stem, [*_blocks(config, stem.grid(config.grid), inside, rngs)],
            Readout(config.embed_dim, config.num_classes, config.readout, pool, rngs=rngs),
            rotary=config.position == "mrope" and not inside, act="none", seq_len=config.timesteps,
            unroll=config.unroll, grid=config.grid, remat=config.remat,
        )  # fmt: skip


def _blocks(config: ViTConfig, grid: Grid, rotary: bool, rngs: nnx.Rngs) -> Iterator[Block]:
    for rate in drop_rates(config.drop_path, config.depth, config.drop_path_schedule):
        mixer, options = config.mixer, dict(config.mixer_options)
        if mixer == ATTENTION:
            mixer = SelfAttention(config.embed_dim, config.heads, rotary=rotary, rngs=rngs)
        elif rotary:
            options["rotary"] = True
        yield Block(
            mixer, config.embed_dim, grid=grid, mixer_options=options, layer_scale=config.layer_scale, drop_path=rate,
            mlp_ratio=config.mlp_ratio, time_table=config.time_table, rngs=rngs,
        )  # fmt: skip


SMALL = ViTConfig()
BASE = ViTConfig(embed_dim=768)
MODELS.register("vit_small_patch16_224")(SMALL)
MODELS.register("vit_base_patch16_224")(BASE)
MODELS.register("baseline")(SMALL)  # names of `--arch`: source 002
MODELS.register("vit")(dataclasses.replace(SMALL, mixer="opponent"))
