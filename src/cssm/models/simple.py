"""SimpleCSSM: stem, positions, norm, mixer blocks, readout. The model of the sCSSM paper, with a real residual.

x = act(stem(frames)), turned by its positions; for each block: x <- norm(act(x)), then x <- x + mixer(x) (no activation
in front of the first), then x <- x + MLP(LayerNorm(x)) where there is an MLP; logits = Dense(LayerNorm(pool(x of the
frames read))). A static image (B, H, W, C) stands for `seq_len` repeats of it, at time 0.
Source: 003 Methods, section 1.2; docs/math.md section 6.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Float, Grid, Int, Logits, RawFrame, RawVideo
from cssm.nn.block import Block
from cssm.nn.mixer import MIXERS, repeat_frame, require_dt
from cssm.nn.parts.activation import activation
from cssm.nn.parts.drop_path import check_rate
from cssm.nn.parts.position import Time, rotary_angles, rotate, steps_between
from cssm.nn.parts.readout import Readout
from cssm.nn.parts.stem import create_stem
from cssm.nn.shared.running import counted
from cssm.nn.stack import LayerFacts, Stack, check_unroll
from cssm.ops.spectral import check_dt
from cssm.shared.annotations import check_fields

from .model import Model, check_input
from .registry import MODELS

POSITIONS = ("mrope", "none")
DEEPEST = 1000  # blocks: each is compiled on its own


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
    """mrope (rotary over time, height, width) or none."""
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
    pool: str = "max"
    """max or mean over space."""
    readout: str = "last"
    """Frames read: last, mean or all."""
    num_classes: int = 2
    """Logits."""
    in_channels: int = 3
    """Channels of the frames."""

    def __post_init__(self):
        check_fields(self)
        sizes = {"height of the grid": self.grid[0], "width of the grid": self.grid[1]}
        names = ("embed_dim", "depth", "seq_len", "num_classes", "in_channels")
        for name, size in (sizes | {name: getattr(self, name) for name in names}).items():
            if size < 1:
                raise UsageError(f"{name} is {size}, expected at least 1")
        if self.depth > DEEPEST:
            raise UsageError(f"depth is {self.depth}, expected at most {DEEPEST}")
        if self.position not in POSITIONS:
            raise UsageError(f"unknown position {self.position!r}: use {' or '.join(POSITIONS)}")
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
        *frames, height, width, channels = input_shape
        new = {"grid": (height, width), "in_channels": channels, "num_classes": outputs}
        return dataclasses.replace(self, **new, **({"seq_len": frames[0]} if frames else {}))


MODELS.register("simple")(SimpleCSSMConfig())


class SimpleState(NamedTuple):
    frames: Int[Any, "b"]  # how many there were
    time: Time  # of the last one, in frames of the training data
    stack: tuple
    readout: Any


class SimpleCSSM(Model):
    """The model of a `SimpleCSSMConfig`.

    >>> model = SimpleCSSMConfig(embed_dim=8, stem="patch").make(nnx.Rngs(0))
    >>> clip = jnp.zeros((2, 4, 33, 17, 3))
    >>> model(clip).shape, model.features(clip).shape
    ((2, 2), (2, 9, 5, 8))
    """

    def __init__(self, config: SimpleCSSMConfig, *, rngs: nnx.Rngs):
        sizes = {"layers": config.stem_layers, "patch_size": config.patch_size}
        self.stem = create_stem(config.stem, config.in_channels, config.embed_dim, act=config.act, rngs=rngs, **sizes)
        # a mixer that turns its own q and k does; every other one gets features turned before it
        inside = config.position == "mrope" and MIXERS[config.mixer].turns_inside
        if inside and "rotary" in config.mixer_options:
            raise UsageError("rotary in mixer_options: position decides, leave rotary out")
        self.rotary = config.position == "mrope" and not inside
        self.stack = Stack(_blocks(config, self.stem.grid(config.grid), inside, rngs))
        self.head = Readout(config.embed_dim, config.num_classes, config.readout, config.pool, rngs=rngs)
        self.affine = config.act == "none" and not self.rotary and self.stem.affine_in_pixels
        self.act, self.seq_len, self.unroll = config.act, config.seq_len, config.unroll
        self.grid: Grid = (config.grid[0], config.grid[1])

    def __call__(self, x: RawVideo | RawFrame, *, dt=None, key=None) -> Logits:
        """Logits of clips (B, T, H, W, C), or of static images (B, H, W, C).

        dt (B, T): the time from each frame's predecessor to it, in frames of the training data; 1 when omitted. A video
        with dropped frames, or at half the frame rate (dt = 2), needs no retraining. key: randomness of drop-path.

        Raises:
          ShapeError: not a clip or image of the model's channels, zero frames, or frames below the stride; dt that does
            not fit. UsageError: dt for a mixer without a fixed transition, for an image, or not positive.
        """
        self._check(x, dt)
        frames = self.head.frames
        if self.head.pool == "max":
            return self.head(self._features(x, frames, dt, key))
        return self.head.logits(self._pooled(x, "mean" if frames == "all" else frames, dt, key))

    def features(self, x: RawVideo | RawFrame, *, dt=None, key=None) -> Float[Any, "b *t h w c"]:
        """What is read: (B, H', W', C) of the last frame or the mean over frames, (B, T, H', W', C) with readout="all".

        Arguments and errors as in a call; `head` gives its logits.
        """
        self._check(x, dt)
        return self._features(x, self.head.frames, dt, key)

    def intermediates(
        self, x: RawVideo | RawFrame, blocks: Sequence[int] | None = None, *, dt=None, key=None
    ) -> tuple[Any, ...]:
        """After the blocks of those indices (-1 is the last; all when omitted): every frame, (B, T, H', W', C).

        An image gives its seq_len frames, or with unroll="block" the frame passed on, (B, H', W', C).

        Raises:
          As in a call; UsageError: an index of no block.
        """
        self._check(x, dt)
        if x.ndim == 5:
            return self.stack.intermediates(self._embed(x, dt), blocks, dt=dt, key=key)
        options = {"unroll": self.unroll, "key": key}
        return self.stack.static_intermediates(self._embed(x), self.seq_len, blocks, **options)

    def layers(self, grid: Grid | None = None) -> tuple[LayerFacts, ...]:
        """Its mixers and the grid each works on, for frames of (H, W) pixels or those of the configuration."""
        return self.stack.layers(self.stem.grid(grid or self.grid))

    def reset_classifier(self, outputs: int, rngs: nnx.Rngs) -> None:
        """A new readout, with new parameters and that many classes."""
        self.head = Readout(self.head.channels, outputs, self.head.frames, self.head.pool, rngs=rngs)

    # Streaming: frame by frame, constant memory, the logits of the parallel pass.

    def init_state(self, batch: int, grid: Grid) -> SimpleState:
        """No past, for frames of grid (H, W) pixels.

        Raises:
          UsageError: the mixer is not recurrent, or the norm looks at the whole clip.
        """
        inner = self.stem.grid(grid)
        stack, readout = self.stack.init_state(batch, inner), self.head.init_state(batch, self.stack.grid(inner))
        return SimpleState(jnp.zeros((batch,), jnp.int32), Time.zero(batch), stack, readout)

    def step(self, state: SimpleState, x: RawFrame, dt=None) -> tuple[SimpleState, Logits]:
        """One more frame (B, H, W, C), dt (B,) after the last one: the new state, and the logits of the clip so far.

        Raises:
          ShapeError: a clip, or a frame whose channels, batch or grid are not those of the state.
          ShapeError, UsageError: dt, as in a call.
        """
        if x.ndim != 4:
            raise ShapeError(
                f"step takes one frame (B, H, W, {self.stem.in_channels}), got shape {x.shape}: give x[:, t]"
            )
        features, time = self._arrive(state, x[:, None], None if dt is None else jnp.asarray(dt)[..., None])
        stack, features = self.stack.step(state.stack, features[:, 0], dt)
        readout, logits = self.head.step(state.readout, features)
        return SimpleState(counted(state.frames, 1), time, stack, readout), logits

    def scan(self, state: SimpleState, x: RawVideo, dt=None) -> tuple[SimpleState, Logits]:
        """More frames (B, T, H, W, C) at once: the new state, and the logits of the clip so far.

        dt (B, T): as in a call, for the first frame from the last one of the state.

        Raises:
          ShapeError: not a clip, or one whose channels, batch or grid are not those of the state.
          ShapeError, UsageError: dt, as in a call.
        """
        if x.ndim != 5:
            raise ShapeError(f"scan takes clips (B, T, H, W, {self.stem.in_channels}), got shape {x.shape}")
        features, time = self._arrive(state, x, dt)
        frames = "last" if self.head.frames == "last" else "all"
        stack, features = self.stack.scan(state.stack, features, readout=frames, dt=dt)
        clip = features if frames == "all" else repeat_frame(features, x.shape[1])  # of which the last one is read
        readout, logits = self.head.scan(state.readout, clip)
        return SimpleState(counted(state.frames, x.shape[1]), time, stack, readout), logits

    def _arrive(self, state: SimpleState, x: RawVideo, dt):
        """(embedded clip, time of its last frame)."""
        self._check(x, dt)
        if state.frames.shape != x.shape[:1]:
            raise ShapeError(f"state shapes are those of {state.frames.shape[0]} clips and do not fit frames {x.shape}")
        steps = steps_between(jnp.ones(x.shape[:2]) if dt is None else dt, state.frames > 0)
        return self._embed(x, since=state.time, steps=steps), state.time.after(steps)

    def _pooled(self, x, frames: str, dt, key) -> Float[Any, "b c"]:
        """The mean over space of `_features`, without them where that is cheaper."""
        if x.ndim == 4:
            return self._static(x, frames, key, pooled=True)
        if self._lifts(frames):
            return self._features(x, frames, dt, key).mean((1, 2))
        return self.stack.pooled(self._embed(x, dt), readout=frames, dt=dt, key=key)

    def _features(self, x, frames: str, dt, key):
        """By the cheapest exact path: a repeated frame, pixels lifted inside the mixer, or the plain clip."""
        if x.ndim == 4:
            return self._static(x, frames, key)
        if self._lifts(frames):
            pixels = jnp.pad(x, [(0, 0)] * 4 + [(0, 1)], constant_values=1)
            return self.stack(pixels, readout=frames, lift=self.stem.affine(), dt=dt, key=key)
        return self.stack(self._embed(x, dt), readout=frames, dt=dt, key=key)

    def _static(self, x: RawFrame, frames: str, key, pooled: bool = False):
        options = {"readout": frames, "unroll": self.unroll, "pooled": pooled, "key": key}
        return self.stack.static(self._embed(x), self.seq_len, **options)

    def _lifts(self, frames: str) -> bool:
        """Nothing but an affine map stands before the mixer: it is handed over, and the pixels are transformed."""
        return self.affine and self.stack.lifts(frames)

    def _embed(self, x, dt=None, *, since: Time | None = None, steps=None):
        """Stem, activation and positions of a clip with no past, of one from a time on, or of an image, at time 0."""
        y = self.stem(x)
        y = y if self.stem.activated else activation(self.act)(y)
        if not self.rotary:
            return y
        steps = steps_between(dt) if steps is None and dt is not None else steps
        times = None if steps is None else jnp.cumsum(steps, 1)
        angles = rotary_angles(1 if x.ndim == 4 else x.shape[1], *y.shape[-3:], times=times, since=since)
        return rotate(y, angles[0] if x.ndim == 4 else angles)

    def _check(self, x, dt) -> None:
        check_input(x, self.stem.in_channels)
        if dt is None:
            return
        if x.ndim == 4:
            raise UsageError("dt is for clips: a static image has no frames between which time passes; leave dt out")
        for block in self.stack.blocks:
            require_dt(block.mixer)
        check_dt(dt, x.shape[:2])


def _blocks(config: SimpleCSSMConfig, grid: Grid, rotary: bool, rngs: nnx.Rngs):
    """The blocks, each on the grid that the strides so far leave of that of the stem."""
    options = {**config.mixer_options, "rotary": True} if rotary else config.mixer_options
    shared = {f: getattr(config, f) for f in ("norm", "layer_scale", "drop_path", "mlp_ratio")}
    for i in range(config.depth):
        block = Block(
            config.mixer, config.embed_dim, grid=grid, mixer_options=options, trunk="normalised",
            act=config.act if i else "none", stride=config.strides[i] if config.strides else 1, rngs=rngs, **shared,
        )  # fmt: skip
        grid = block.grid(grid)
        yield block
