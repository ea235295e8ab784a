"""SimpleCSSM: stem, positions, norm, mixer blocks, readout. The model of the sCSSM paper, with a real residual.

x = norm(act(stem(frames))); for each block: x <- x + mixer(x) (norm and activation between blocks); logits =
Dense(LayerNorm(pool(x of the frames read))). The last block computes only what is read. A static image (B, H, W, C)
stands for `seq_len` repeats of it: stem, position (at time 0) and norm run once, and the mixer uses its closed form.
Source: 003 Methods, section 1.2; docs/math.md section 6.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Grid, Logits, RawFrame, RawVideo, Video
from cssm.nn.layer import check_state, require_streaming
from cssm.nn.mixer import MIXERS, Control, Mixer, create_mixer, repeat_frame, require_dt, select
from cssm.nn.parts.norm import create_norm
from cssm.nn.parts.position import rotary_angles, rotate
from cssm.nn.parts.readout import Readout
from cssm.nn.parts.stem import Stem, activation
from cssm.ops.spectral import check_dt

from .registry import MODELS

POSITIONS = ("mrope", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimpleCSSMConfig:
    """Options of SimpleCSSM. `make(rngs)` builds it."""

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
    image_size: int = 32
    """Training frames are image_size x image_size; mixers with a position table interpolate it elsewhere."""
    stem: str = "default"
    """pathtracker (one 1x1 convolution) or default (3x3 convolutions with pooling)."""
    stem_layers: int = 2
    """Layers of the default stem, which each halve the resolution; the pathtracker stem has none."""
    position: str = "mrope"
    """mrope (rotary over time, height, width) or none."""
    norm: str = "global_layer"
    """global_layer, global_layer_causal (streams), layer or none."""
    act: str = "gelu"
    """Activation after the stem and between blocks: gelu, softplus, relu or none."""
    pool: str = "max"
    """max or mean over space."""
    readout: str = "last"
    """Frames read: last, mean or all."""
    drop_path: float = 0.0
    """Probability of skipping a block for a sample, in training."""
    num_classes: int = 2
    in_channels: int = 3

    def fitted(self, input_shape, outputs):
        seq_len = input_shape[0] if len(input_shape) == 4 else self.seq_len
        return dataclasses.replace(
            self, image_size=input_shape[-2], in_channels=input_shape[-1], num_classes=outputs, seq_len=seq_len
        )

    def make(self, rngs: nnx.Rngs) -> "SimpleCSSM":
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return SimpleCSSM(**options, rngs=rngs)


MODELS.register("simple")(SimpleCSSMConfig())


class SimpleState(NamedTuple):
    frame: jax.Array  # how many there were
    time: jax.Array  # (B,) of the last one, in frames of the training data
    norms: tuple
    mixers: tuple
    readout: Any


class SimpleCSSM(nnx.Module):
    """Arguments as `SimpleCSSMConfig`."""

    def __init__(
        self, *, mixer, mixer_options, embed_dim, depth, seq_len, image_size, stem, stem_layers, position, norm, act,
        pool, readout, drop_path, num_classes, in_channels, rngs: nnx.Rngs,
    ):  # fmt: skip
        if position not in POSITIONS:
            raise UsageError(f"unknown position {position!r}: use {' or '.join(POSITIONS)}")
        sizes = {"embed_dim": embed_dim, "depth": depth, "seq_len": seq_len, "image_size": image_size}
        for name, size in (sizes | {"num_classes": num_classes, "in_channels": in_channels}).items():
            if size < 1:
                raise UsageError(f"{name} is {size}, expected at least 1")
        if not 0 <= drop_path < 1:
            raise UsageError(f"drop_path is {drop_path}, expected a probability 0 <= drop_path < 1")
        self.stem = Stem(stem, in_channels, embed_dim, layers=stem_layers, act=act, rngs=rngs)
        grid = (-(-image_size // self.stem.stride),) * 2
        # attention turns its own q and k; every other mixer gets features turned before it
        inside = position == "mrope" and MIXERS[mixer].turns_inside
        if inside and "rotary" in mixer_options:
            raise UsageError("rotary in mixer_options: position decides, leave rotary out")
        options = {**mixer_options, "rotary": True} if inside else mixer_options
        build = lambda: create_mixer(mixer, channels=embed_dim, grid=grid, rngs=rngs, **options)  # noqa: E731
        self.mixers: nnx.List[Mixer | Control] = nnx.List([build() for _ in range(depth)])
        self.norms = nnx.List([create_norm(norm, embed_dim) for _ in range(depth)])
        self.head = Readout(embed_dim, num_classes, readout, pool, rngs=rngs)
        self.act, self.norm_name, self.rotary = act, norm, position == "mrope" and not inside
        plain_stem = act == norm == "none" and not self.rotary and not self.stem.pools
        self.affine = plain_stem and depth == 1 and self.mixers[0].takes_lift
        self.drop_path, self.seq_len, self.in_channels, self.mixer_name = drop_path, seq_len, in_channels, mixer

    def __call__(self, x: RawVideo | RawFrame, *, dt=None, key=None) -> Logits:
        """Logits of clips (B, T, H, W, C), or of static images (B, H, W, C).

        dt (B, T): the time from each frame's predecessor to it, in frames of the training data; 1 when omitted. A video
        with dropped frames, or at half the frame rate (dt = 2), needs no retraining. key: randomness of drop-path.

        Raises:
          ShapeError: not a clip or image of the model's channels, zero frames, or frames below the stride; dt that does
            not fit. UsageError: dt for a mixer without a fixed transition, for an image, or not positive.
        """
        self._check(x)
        static, frames, mixer = x.ndim == 4, self.head.frames, self.mixers[0]
        self._check_dt(x, dt)
        if self.affine and not static and frames != "all":
            return self._affine_clip(x, mixer, frames, dt, key)
        x = self.norms[0](self._embed(x[:, None] if static else x, None if dt is None else _times(dt)))
        if static and len(self.mixers) == 1 and isinstance(mixer, Mixer) and frames != "all":
            state = mixer.init_state(x.shape[0], x.shape[2:4])
            y = mixer.static(state, x[:, 0], self.seq_len, readout=frames)[1]
            return self.head(x[:, 0] + self._drop(y, key, 0))
        return self._blocks(repeat_frame(x[:, 0], self.seq_len) if static else x, dt, key)

    def _affine_clip(self, x: RawVideo, mixer, frames, dt, key) -> Logits:
        """Nothing but an affine map stands before the mixer: it is handed over, and the pixels are transformed."""
        x, lift = jnp.pad(x, [(0, 0)] * 4 + [(0, 1)], constant_values=1), self.stem.affine()
        y = mixer.scan(mixer.init_state(x.shape[0], x.shape[2:4]), x, readout=frames, lift=lift, **_spans(dt))[1]
        return self.head(select(x, frames) @ lift + self._drop(y, key, 0))

    def _blocks(self, x: Video, dt, key) -> Logits:
        for i, mixer in enumerate(self.mixers):
            x = self.norms[i](activation(self.act)(x)) if i else x
            if i < len(self.mixers) - 1:
                x = x + self._drop(mixer(x, **_spans(dt)), key, i)
        return self._last_block(x, mixer, dt, key)

    def _last_block(self, x: Video, mixer, dt, key) -> Logits:
        """The last block and the readout: nothing is computed that is not read."""
        frames, block = self.head.frames, len(self.mixers) - 1
        if isinstance(mixer, Control):
            return self.head(select(x + self._drop(mixer(x), key, block), frames))
        state = mixer.init_state(x.shape[0], x.shape[2:4])
        if self.head.pool == "mean" and mixer.pools and dt is None:
            frames = "mean" if frames == "all" else frames
            y = mixer.pooled(state, x, readout=frames)
            return self.head.logits(select(x, frames).mean((1, 2)) + self._drop(y, key, block))
        y = mixer.scan(state, x, readout=frames, **_spans(dt))[1]
        return self.head(select(x, frames) + self._drop(y, key, block))

    def _embed(self, x: RawVideo, times=None) -> Video:
        """Stem, activation and positions of a clip whose frames are at times (B, T), or at 0, 1, 2, ..."""
        y = self.stem(x.reshape(-1, *x.shape[2:]))
        y = activation(self.act)(y) if not self.stem.pools else y
        y = y.reshape(*x.shape[:2], *y.shape[1:])
        return rotate(y, rotary_angles(*y.shape[1:], times=times)) if self.rotary else y

    def _drop(self, y, key, block: int):
        if key is None or not self.drop_path:
            return y
        keep = jax.random.bernoulli(jax.random.fold_in(key, block), 1 - self.drop_path, (y.shape[0],))
        return jnp.where(keep.reshape(-1, *(1,) * (y.ndim - 1)), y / (1 - self.drop_path), 0)

    def _check(self, x) -> None:
        if x.ndim not in (4, 5) or x.shape[-1] != self.in_channels:
            raise ShapeError(
                f"the model takes clips (B, T, H, W, {self.in_channels}) or images (B, H, W, {self.in_channels}), "
                f"got shape {x.shape}"
            )
        if 0 in x.shape[1:]:
            raise ShapeError(f"the input of shape {x.shape} has zero frames or pixels: give at least one")

    def _check_dt(self, x, dt) -> None:
        if dt is None:
            return
        if x.ndim == 4:
            raise UsageError("dt is for clips: a static image has no frames between which time passes; leave dt out")
        for mixer in self.mixers:
            require_dt(mixer)
        check_dt(dt, x.shape[:2])

    # Streaming: frame by frame, constant memory, the logits of the parallel pass.

    def init_state(self, batch: int, grid: Grid) -> SimpleState:
        """No past, for frames of grid (H, W) pixels.

        Raises:
          UsageError: the mixer is not recurrent, or the norm looks at the whole clip.
        """
        inner = tuple(-(-n // self.stem.stride) for n in grid)
        for mixer, norm in zip(self.mixers, self.norms, strict=True):
            require_streaming(mixer, self.mixer_name)
            require_streaming(norm, self.norm_name)
        return SimpleState(
            jnp.zeros((), jnp.int32),
            jnp.zeros((batch,)),
            tuple(norm.init_state(batch, inner) for norm in self.norms),
            tuple(mixer.init_state(batch, inner) for mixer in self.mixers),
            self.head.init_state(batch, inner),
        )

    def step(self, state: SimpleState, x: RawFrame, dt=None) -> tuple[SimpleState, Logits]:
        """One more frame (B, H, W, C), dt (B,) after the last one: the new state, and the logits of the clip so far.

        Raises:
          ShapeError: a clip, or a frame whose channels, batch or grid are not those of the state.
          ShapeError, UsageError: dt, as in a call.
        """
        if x.ndim != 4:
            raise ShapeError(f"step takes one frame (B, H, W, {self.in_channels}), got shape {x.shape}: give x[:, t]")
        self._check(x)
        self._check_dt(x[:, None], None if dt is None else jnp.asarray(dt)[..., None])
        if state.time.shape != x.shape[:1]:
            raise ShapeError(f"state shapes are those of {state.time.shape[0]} clips and do not fit frames {x.shape}")
        time = jnp.where(state.frame == 0, 0, state.time + (1 if dt is None else dt))  # the first frame is at 0
        x = self._embed(x[:, None], time[:, None])[:, 0]
        check_state(state.mixers[0], x, self.mixers[0])  # before a norm broadcasts
        norms, mixers = [], []
        for i, (norm, mixer) in enumerate(zip(self.norms, self.mixers, strict=True)):
            norm_state, x = norm.step(state.norms[i], activation(self.act)(x) if i else x)
            mixer_state, y = mixer.step(state.mixers[i], x, **_spans(dt))
            x = x + y
            norms.append(norm_state)
            mixers.append(mixer_state)
        readout, logits = self.head.step(state.readout, x)
        return SimpleState(state.frame + 1, time, tuple(norms), tuple(mixers), readout), logits


def _spans(dt):
    """Keyword arguments of a mixer: those without irregular time are not asked for it."""
    return {} if dt is None else {"dt": dt}


def _times(dt):
    """(B, T) of each frame, the first at 0."""
    return jnp.cumsum(jnp.asarray(dt, jnp.float32).at[:, 0].set(0), 1)
