"""SimpleCSSM: stem, positions, norm, mixer blocks, readout. The model of the sCSSM paper, with a real residual.

x = act(stem(frames)), turned by its positions, or with a learned table added; for each block: x <- norm(act(x)), then
x <- x + mixer(x) (no activation in front of the first), then x <- x + MLP(LayerNorm(x)) where there is an MLP; logits =
Dense(LayerNorm(pool(x of the frames read))). A static image (B, H, W, C) stands for `seq_len` repeats of it, at time 0.
Source: 003 Methods, section 1.2; docs/math.md section 6.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Grid
from cssm.nn.block import Block
from cssm.nn.mixer import MIXERS
from cssm.nn.parts.activation import activation
from cssm.nn.parts.drop_path import check_rate
from cssm.nn.parts.position import learned_table
from cssm.nn.parts.readout import Readout
from cssm.nn.parts.stem import create_stem
from cssm.nn.stack import check_unroll
from cssm.shared.annotations import check_fields

from .host import Host
from .model import check_sizes, fitted_to
from .registry import MODELS

POSITIONS = ("mrope", "learned", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleCSSMConfig:
    """Options of SimpleCSSM. `make(rngs)` builds it.

    Raises UsageError for a value of another type, or out of range.
    """

    mixer: str = "no_gate"
    """Mixer registry key; see `cssm list`."""
    mixer_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of the mixer, e.g. {"kernel_size": 15}."""
    embed_dim: int = 32
    """Channels."""
    depth: int = 1
    """Mixer blocks."""
    seq_len: int = 8
    """Frames that a static image stands for."""
    grid: Grid = (32, 32)
    """(H, W) of the training frames, in pixels; mixers with a position table interpolate it elsewhere."""
    stem: str = "default"
    """pixel (one 1x1 convolution; also pathtracker), conv (3x3 convolutions with pooling; also default) or patch."""
    stem_layers: int | None = None
    """Layers of the conv stem, which each halve the resolution; None for 2."""
    patch_size: int | None = None
    """Pixels along each side of a patch of the patch stem; None for 4."""
    strides: tuple[int, ...] = ()
    """Of each block: above 1, it downsamples (LayerNorm and a strided convolution) first. () for 1 everywhere."""
    position: str = "mrope"
    """mrope (rotary over time, height, width), learned (a table over the grid, resampled to others) or none."""
    norm: str = "global_layer"
    """global_layer, global_layer_causal (streams), layer or none."""
    act: str = "gelu"
    """Activation after the stem and between blocks: gelu, softplus, relu or none."""
    layer_scale: float | None = None
    """Initial value of a learned factor per channel on what a block adds; None for no factor."""
    mlp_ratio: float = 0.0
    """Hidden channels, per channel, of an MLP after each mixer; 0 for no MLP."""
    drop_path: float = 0.0
    """Probability of skipping what a block adds, for a sample, in training."""
    unroll: str = "network"
    """What a static image means: network (the frame repeated) or block (every block repeats its own input from no past
    and passes its last output on; no cost in seq_len at any depth). Clips and streams carry their states either way."""
    time_table: int | None = None
    """Rows of a learned table (zero at first) whose rows, resampled to the frames of a clip, are added to what every
    mixer sees: it can tell the frames apart. None: no table. A model with one cannot stream."""
    pool: str = "max"
    """max or mean over space."""
    readout: str = "last"
    """Frames read: last, mean or all."""
    remat: bool = False
    """Memory of a training step: keep what goes into every block, and compute the block again for its gradient."""
    num_classes: int = 2
    """Logits."""
    in_channels: int = 3
    """Channels of the frames."""

    def __post_init__(self):
        check_fields(self)
        check_sizes(self, "embed_dim", "depth", "seq_len", "num_classes", "in_channels")
        if self.position not in POSITIONS:
            raise UsageError(f"unknown position {self.position!r}: use mrope, learned or none")
        if self.strides and len(self.strides) != self.depth:
            raise UsageError(f"strides {self.strides} are not one for each of {self.depth} blocks (depth)")
        activation(self.act)
        check_rate(self.drop_path)
        check_unroll(self.unroll)

    def make(self, rngs: nnx.Rngs) -> "SimpleCSSM":
        """The model with its initial parameters."""
        return SimpleCSSM(self, rngs=rngs)

    def fitted(self, input_shape: tuple[int, ...], outputs: int) -> "SimpleCSSMConfig":
        """The configuration for images (H, W, C) or clips (T, H, W, C), and that many classes.

        >>> fitted = SimpleCSSMConfig().fitted((16, 64, 96, 3), 10)
        >>> fitted.seq_len, fitted.grid, fitted.num_classes
        (16, (64, 96), 10)
        """
        return fitted_to(self, input_shape, outputs, frames="seq_len")


MODELS.register("simple")(SimpleCSSMConfig())


class SimpleCSSM(Host):
    """The model of a `SimpleCSSMConfig`.

    >>> import jax.numpy as jnp
    >>> model = SimpleCSSMConfig(embed_dim=8, stem="patch").make(nnx.Rngs(0))
    >>> clip = jnp.zeros((2, 4, 33, 17, 3))
    >>> model(clip).shape, model.features(clip).shape
    ((2, 2), (2, 9, 5, 8))
    """

    def __init__(self, config: SimpleCSSMConfig, *, rngs: nnx.Rngs):
        sizes = {"layers": config.stem_layers, "patch_size": config.patch_size}
        stem = create_stem(config.stem, config.in_channels, config.embed_dim, act=config.act, rngs=rngs, **sizes)
        # a mixer that turns its own q and k does; every other one gets features turned before it
        inside = config.position == "mrope" and MIXERS[config.mixer].turns_inside
        if inside and "rotary" in config.mixer_options:
            raise UsageError("rotary in mixer_options: position decides, leave rotary out")
        blocks = [*_blocks(config, stem.grid(config.grid), inside, rngs)]
        learned, grid = config.position == "learned", stem.grid(config.grid)
        table = learned_table(*grid, config.embed_dim, rngs=rngs) if learned else None
        self._assemble(
            stem, blocks, Readout(config.embed_dim, config.num_classes, config.readout, config.pool, rngs=rngs),
            rotary=config.position == "mrope" and not inside, act=config.act, seq_len=config.seq_len,
            unroll=config.unroll, grid=config.grid, lifts=True, remat=config.remat,
            positions=table,
        )  # fmt: skip


def _blocks(config: SimpleCSSMConfig, grid: Grid, rotary: bool, rngs: nnx.Rngs):
    """The blocks, each on the grid that the strides so far leave of that of the stem."""
    options = {**config.mixer_options, "rotary": True} if rotary else config.mixer_options
    shared = {f: getattr(config, f) for f in ("norm", "layer_scale", "drop_path", "mlp_ratio", "time_table")}
    for i in range(config.depth):
        block = Block(
            config.mixer, config.embed_dim, grid=grid, mixer_options=options, trunk="normalised",
            act=config.act if i else "none", stride=config.strides[i] if config.strides else 1, rngs=rngs, **shared,
        )  # fmt: skip
        grid = block.grid(grid)
        yield block
