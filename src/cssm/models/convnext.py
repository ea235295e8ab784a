"""ConvNeXt, with recurrences of depthwise convolutions, or any mixer, inside.

    stem: 4 x 4 patches, LayerNorm;  four stages of blocks, LayerNorm and a 2 x 2 convolution of stride 2 between them
    block: x <- x + gamma MLP(LayerNorm(mixer(x)));          logits = Dense(LayerNorm(mean over space))

| variant | mixer of a block |
|---|---|
| dwconv | a 7 x 7 depthwise convolution with bias: timm's ConvNeXt of that name, weight for weight |
| fft | the same without bias |
| ssm | dwconv without bias, then h_t = A * h_{t-1} + B * x_t, 7 x 7 |
| gated | as ssm, with three Dense gates (minGRU) |
| conv3d | as ssm, with A and B over space and past frames, 3 x 3 x 3 |
| pure3d | those alone, 7 x 7 x 5 |
| full | any registered mixer |
| hybrid | dwconv; and after each block one more, x <- x + gamma mixer(LayerNorm(x)), of any registered mixer |

And `fourier`, no ConvNeXt at all: sum(depths) layers of dims[0] complex channels at every frequency of the stem on its
own, of which the mean over space is read (nn/parts/frequency.py); its source's negative result, 36.6% on Imagenette.

An image stands for `timesteps` repeats; clips carry their states from frame to frame. With A = 0 and B the identity, or
a hybrid's gamma = 0, it is the plain ConvNeXt: a pretrained one is a warm start (`create_model(..., init_from=)`).

Source: Liu et al. 2022, A ConvNet for the 2020s; 000 sections 2-6; docs/math.md section 6.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Grid
from cssm.nn.block import Block
from cssm.nn.parts.depthwise import BOUNDARIES, Depthwise, DepthwiseSSM, DepthwiseSSM3D, GatedSSM
from cssm.nn.parts.drop_path import check_rate
from cssm.nn.parts.frequency import FrequencyMix, SpectralPatches
from cssm.nn.parts.norm import ChannelNorm
from cssm.nn.parts.patches import PatchConv
from cssm.nn.parts.readout import Readout
from cssm.nn.parts.stem import Features, Pixels, Stem
from cssm.nn.stack import check_unroll
from cssm.shared.annotations import check_fields

from .host import Host
from .model import check_sizes, drop_rates, fitted_to
from .registry import MODELS

VARIANTS = ("dwconv", "fft", "ssm", "gated", "conv3d", "pure3d", "full", "hybrid", "fourier")
STILL = ("dwconv", "fft", "fourier")  # those without a state
REGISTERED = ("full", "hybrid")  # those that hold a mixer of the registry
BIASED = ("dwconv", "hybrid")  # whose depthwise convolution has a bias, unless conv_bias says otherwise
UNUSED = {  # fields that a variant has no use for
    "full": ("kernel_size", "conv_bias", "boundary"),
    "pure3d": ("kernel_size", "conv_bias", "boundary"),
    "fourier": ("kernel_size", "conv_bias", "boundary", "mlp_ratio", "layer_scale", "pool", "time_table"),
    "dwconv": ("time_table",),
    "fft": ("time_table",),
}
KERNELS_3D = {"conv3d": (3, 3, 3), "pure3d": (7, 7, 5)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNeXtConfig:
    """Options of ConvNeXt. `make(rngs)` builds it.

    Raises UsageError for a value of another type, or out of range.
    """

    variant: str = "dwconv"
    """dwconv (the plain one), fft, ssm, gated, conv3d, pure3d, full, hybrid or fourier: what mixes space and time."""
    mixer: str | None = None
    """Mixer registry key, of full and hybrid; None: standard."""
    mixer_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of that mixer, e.g. {"kernel_size": 11}."""
    depths: tuple[int, ...] = (3, 3, 9, 3)
    """Blocks of each stage."""
    dims: tuple[int, ...] = (96, 192, 384, 768)
    """Channels of each stage."""
    kernel_size: int = 7
    """Taps along each side of the depthwise convolutions."""
    conv_bias: bool | None = None
    """A bias of the depthwise convolution; None: with dwconv and hybrid, and after init_from= a file that has one."""
    boundary: str = "zero"
    """Of the depthwise convolution: zero, or circular, where ssm on an image is a single convolution."""
    patch_size: int = 4
    """Pixels along each side of a patch of the stem."""
    grid: Grid = (224, 224)
    """(H, W) of the training frames, in pixels."""
    mlp_ratio: float = 4.0
    """Hidden channels of the MLP per channel."""
    conv_mlp: bool = False
    """Whether timm stores the MLP as 1 x 1 convolutions (its smallest models): of `save_timm` alone."""
    layer_scale: float = 1e-6
    """Initial value of a learned factor per channel on what a block adds."""
    drop_path: float = 0.0
    """Probability of skipping what the last block adds, for a sample, in training."""
    drop_path_schedule: str = "linear"
    """uniform, or linear: from 0 in the first block to drop_path in the last."""
    timesteps: int = 8
    """Frames that a static image stands for; without effect on dwconv and fft."""
    unroll: str = "block"
    """What a static image means: block (every block repeats its own input from no past and passes its last output on)
    or network (the frame repeated). Clips and streams carry their states either way."""
    time_table: int | None = None
    """Rows of a learned table (zero at first) whose rows, resampled to the frames of a clip, are added to what every
    mixer sees: it can tell the frames apart. None: no table. A model with one cannot stream."""
    pool: str = "mean"
    """mean or max over space."""
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
        check_sizes(self, "kernel_size", "patch_size", "timesteps", "num_classes", "in_channels")
        if self.variant not in VARIANTS:
            raise UsageError(f"unknown variant {self.variant!r} of ConvNeXt: use {', '.join(VARIANTS)}")
        if not self.depths or len(self.depths) != len(self.dims) or min(*self.depths, *self.dims) < 1:
            raise UsageError(f"depths {self.depths} and dims {self.dims}: expected one of each per stage, at least 1")
        if self.boundary not in BOUNDARIES:
            raise UsageError(f"unknown boundary {self.boundary!r}: use {' or '.join(BOUNDARIES)}")
        if self.mlp_ratio <= 0:
            raise UsageError(f"mlp_ratio is {self.mlp_ratio}, expected more than 0")
        if (self.mixer is not None or self.mixer_options) and self.variant not in REGISTERED:
            raise UsageError(f"variant {self.variant!r} holds no mixer: leave mixer out, or use variant full or hybrid")
        for field in dataclasses.fields(self):
            if field.name in UNUSED.get(self.variant, ()) and getattr(self, field.name) != field.default:
                raise UsageError(f"variant {self.variant!r} has no use for {field.name}: leave it out")
        if self.pool == "token":
            raise UsageError("pool='token' reads a class token, and there is none: use mean or max")
        if self.variant in STILL and self.unroll == "network":
            raise UsageError(f"unroll='network' carries states, and variant {self.variant!r} has none: use 'block'")
        check_rate(self.drop_path)
        check_unroll(self.unroll)
        drop_rates(self.drop_path, sum(self.depths), self.drop_path_schedule)

    @property
    def registered(self) -> str:
        """The mixer of full and hybrid."""
        return self.mixer or "standard"

    def make(self, rngs: nnx.Rngs) -> "ConvNeXt":
        """The model with its initial parameters."""
        return ConvNeXt(self, rngs=rngs)

    def fitted(self, input_shape: tuple[int, ...], outputs: int) -> "ConvNeXtConfig":
        """The configuration for images (H, W, C) or clips (T, H, W, C), and that many classes.

        >>> fitted = ConvNeXtConfig().fitted((16, 64, 96, 3), 10)
        >>> fitted.timesteps, fitted.grid, fitted.num_classes
        (16, (64, 96), 10)
        """
        return fitted_to(self, input_shape, outputs, frames="timesteps")


class ConvNeXt(Host):
    """The model of a `ConvNeXtConfig`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> config = ConvNeXtConfig(variant="ssm", depths=(1, 1), dims=(8, 16), grid=(32, 32), num_classes=5)
    >>> model = config.make(nnx.Rngs(0))
    >>> [jax.eval_shape(f, jnp.zeros((2, 4, 32, 48, 3))).shape for f in (model, model.features)]
    [(2, 5), (2, 4, 6, 16)]
    """

    def __init__(self, config: ConvNeXtConfig, *, rngs: nnx.Rngs):
        self.conv_mlp = config.conv_mlp
        if config.variant == "fourier":
            self._of_frequencies(config, rngs)
            return
        least = config.patch_size * 2 ** (len(config.depths) - 1)
        stem = NormedPatches(config.in_channels, config.dims[0], config.patch_size, least=least, rngs=rngs)
        self._assemble(
            stem, [*_blocks(config, stem.grid(config.grid), rngs)],
            Readout(config.dims[-1], config.num_classes, config.readout, config.pool, rngs=rngs),
            rotary=False, act="none", seq_len=config.timesteps, unroll=config.unroll, grid=config.grid,
            remat=config.remat,
        )  # fmt: skip

    def _of_frequencies(self, config: ConvNeXtConfig, rngs: nnx.Rngs) -> None:
        channels = 2 * config.dims[0]
        stem = SpectralPatches(config.in_channels, config.dims[0], config.patch_size, rngs=rngs)
        rates = drop_rates(config.drop_path, sum(config.depths), config.drop_path_schedule)
        grid = stem.grid(config.grid)
        mixers = (FrequencyMix(channels, rngs=rngs) for _ in rates)
        blocks = [
            Block(mixer, channels, grid=grid, norm="none", drop_path=rate, rngs=rngs)
            for mixer, rate in zip(mixers, rates, strict=True)
        ]
        head = Readout(channels, config.num_classes, config.readout, "token", rngs=rngs)  # the frequency (0, 0)
        options = {"seq_len": config.timesteps, "unroll": config.unroll, "grid": config.grid, "remat": config.remat}
        self._assemble(stem, blocks, head, rotary=False, act="none", **options)


class NormedPatches(Stem):
    """One convolution of p x p taps and that stride, then LayerNorm; pixels beyond a multiple of p are left out."""

    def __init__(self, in_channels: int, channels: int, patch_size: int, *, least: int, rngs: nnx.Rngs):
        self.in_channels, self.stride, self.least = in_channels, patch_size, least
        self.conv = PatchConv(in_channels, channels, patch_size, padding="valid", rngs=rngs)
        self.norm = ChannelNorm(channels, rngs=rngs)

    def grid(self, grid: Grid) -> Grid:
        return self.conv.grid(grid)

    def _embed(self, x: Pixels) -> Features:
        if min(x.shape[-3:-1]) < self.least:
            raise ShapeError(
                f"frames of {x.shape[-3]} x {x.shape[-2]} pixels leave nothing after all stages: give at least "
                f"{self.least} x {self.least}"
            )
        return self.norm(self.conv(x))


def _blocks(config: ConvNeXtConfig, grid: Grid, rngs: nnx.Rngs) -> Iterator[Block]:
    """The blocks, each on the grid that the stages so far leave of that of the stem."""
    rates = iter(drop_rates(config.drop_path, sum(config.depths), config.drop_path_schedule))
    arriving = config.dims[0]
    for stage, (depth, channels) in enumerate(zip(config.depths, config.dims, strict=True)):
        for place in range(depth):
            rate = next(rates)
            registered = config.variant == "full"
            block = Block(
                config.registered if registered else _mixer(config, channels, rngs), channels, grid=grid,
                mixer_options=config.mixer_options if registered else None, norm="none", branches=1,
                layer_scale=config.layer_scale, mlp_ratio=config.mlp_ratio, drop_path=rate,
                time_table=None if config.variant == "hybrid" else config.time_table,
                stride=2 if stage and not place else 1, in_channels=arriving, padding="valid", rngs=rngs,
            )  # fmt: skip
            yield block
            grid, arriving = block.grid(grid), channels
            if config.variant == "hybrid":
                yield Block(
                    config.registered, channels, grid=grid, mixer_options=config.mixer_options, drop_path=rate,
                    layer_scale=config.layer_scale, time_table=config.time_table, rngs=rngs,
                )  # fmt: skip


def _mixer(config: ConvNeXtConfig, channels: int, rngs: nnx.Rngs):
    """What mixes in a block of variants that have a kind of their own."""
    bias = config.variant in BIASED if config.conv_bias is None else config.conv_bias
    options: dict[str, Any] = {"bias": bias, "boundary": config.boundary, "rngs": rngs}
    if config.variant in KERNELS_3D:
        size = None if config.variant == "pure3d" else config.kernel_size
        return DepthwiseSSM3D(channels, KERNELS_3D[config.variant], conv_size=size, **options)
    kind = {"ssm": DepthwiseSSM, "gated": GatedSSM}.get(config.variant, Depthwise)
    return kind(channels, config.kernel_size, **options)


TINY = ConvNeXtConfig()
ATTO = ConvNeXtConfig(depths=(2, 2, 6, 2), dims=(40, 80, 160, 320), conv_mlp=True)
BASE = ConvNeXtConfig(depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024))
MODELS.register("convnext_atto")(ATTO)
MODELS.register("convnext_tiny")(TINY)
MODELS.register("convnext_base")(BASE)
MODELS.register("convnext")(TINY)  # its name in `--arch`
