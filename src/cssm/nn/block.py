"""A block: what stands around a mixer. x + mixer(norm(x)), with layer scale, drop path and an MLP."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, Video

from .layer import require_streaming
from .mixer import READOUTS, Control, Mixer, create_mixer, repeat_frame, require_dt, select
from .parts.activation import activation
from .parts.downsample import Downsample
from .parts.drop_path import check_rate, drop_path
from .parts.mlp import MLP
from .parts.norm import ChannelNorm, create_norm
from .parts.position import interpolate_table

TRUNKS = ("input", "normalised")
# what arrives: of other channels and another grid than what leaves, where a block downsamples
Arriving = Float[Any, "b t height width r"]
ArrivingFrame = Float[Any, "b height width r"]


class BlockState(NamedTuple):
    norm: Any
    mixer: Any


class Block(nnx.Module):
    """One mixer with its norm and residual connection, and an MLP after it. It streams where mixer and norm do, and
    no time table stands between them.

        x <- act(downsample(x));    s = norm(x)
        x <- r + drop_path(gamma * mixer(s)),                  r = x, or r = s with trunk="normalised"
        x <- x + drop_path(gamma' * MLP(LayerNorm(x)))         with mlp_ratio > 0

    With time_table=M, mixer(s_t + e_t): e is a learned table of M rows (M, C), zero at first, linearly resampled to the
    frames of the clip. With branches=1 there is one residual branch, that of ConvNeXt:

        x <- x + drop_path(gamma' * MLP(LayerNorm(mixer(x))))

    trunk="input" is the pre-norm block of ViT, DeiT and ConvNeXt; trunk="normalised" is that of SimpleCSSM, where
    activation and norm stand on the trunk itself. One drop-path draw a sample and branch, shared by all frames.

    Args:
      mixer: registry name, or the mixer itself. channels: C. grid: (H, W) of the training grid, as it arrives.
      mixer_options: keyword arguments of the mixer.
      norm: registry name of the norm before the mixer; the MLP's is a LayerNorm. act: activation on the trunk.
      layer_scale: initial gamma and gamma' (C,), or None for none. drop_path: probability of skipping a branch.
      mlp_ratio: hidden channels of the MLP per channel; 0 for no MLP. branches: 2, or 1 (with an MLP and norm="none").
      stride: above 1, or with in_channels other than C, a Downsample stands in front, which treats odd grids as
        `padding` says. time_table: rows of e, or None. rngs: nnx.Rngs.

    Raises:
      UnknownNameError: no such mixer or norm. UsageError: an option out of range.

    Source: docs/math.md section 6; He et al. 2016 (identity mappings); Touvron et al. 2021 (LayerScale).

    >>> block = Block("no_gate", 8, grid=(9, 9), stride=2, mlp_ratio=4.0, layer_scale=1e-4, rngs=nnx.Rngs(0))
    >>> x = jnp.ones((1, 4, 9, 9, 8))
    >>> block(x).shape, block(x, readout="last").shape
    ((1, 4, 5, 5, 8), (1, 5, 5, 8))
    """

    def __init__(
        self, mixer: str | Mixer | Control, channels: int, *, grid: Grid,
        mixer_options: Mapping[str, Any] | None = None, norm: str = "layer", trunk: str = "input", act: str = "none",
        layer_scale: float | None = None, drop_path: float = 0.0, mlp_ratio: float = 0.0, branches: int = 2,
        stride: int = 1, in_channels: int | None = None, padding: str = "same", time_table: int | None = None,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        if trunk not in TRUNKS:
            raise UsageError(f"unknown trunk {trunk!r}: use {' or '.join(TRUNKS)}")
        if mlp_ratio < 0:
            raise UsageError(f"mlp_ratio is {mlp_ratio}, expected 0 (no MLP) or more")
        if branches not in (1, 2) or (branches == 1 and not (mlp_ratio and norm == "none" and trunk == "input")):
            raise UsageError(f"branches is {branches}, expected 2, or 1 with an MLP, norm='none' and trunk='input'")
        if time_table is not None and time_table < 1:
            raise UsageError(f"time_table is {time_table}, expected at least 1 row, or None")
        activation(act)
        self.channels, self.norm_name, self.stride, self.branches = channels, norm, stride, branches
        self.trunk, self.act, self.drop_path = trunk, act, check_rate(drop_path)
        arriving = in_channels or channels
        sampled = stride != 1 or arriving != channels
        self.downsample = Downsample(arriving, channels, stride, padding=padding, rngs=rngs) if sampled else None
        if taken := {"channels", "grid", "rngs"} & set(mixer_options or {}):
            raise UsageError(f"{min(taken)} in mixer_options: the model decides it, leave it out")
        self.mixer_name = mixer if isinstance(mixer, str) else type(mixer).__name__
        if isinstance(mixer, str):
            mixer = create_mixer(mixer, channels=channels, grid=self.grid(grid), rngs=rngs, **(mixer_options or {}))
        self.mixer: Any = mixer
        self.norm = create_norm(norm, channels)
        self.time_table = nnx.Param(jnp.zeros((time_table, channels))) if time_table else None
        self.layer_scale = _scale(layer_scale, channels) if branches == 2 else None
        self.mlp = MLP(channels, mlp_ratio, rngs=rngs) if mlp_ratio else None
        self.mlp_norm = ChannelNorm(channels, rngs=rngs) if mlp_ratio else None
        self.mlp_layer_scale = _scale(layer_scale, channels) if mlp_ratio else None

    def grid(self, grid: Grid) -> Grid:
        """The grid of the mixer and of the output, for input of (H, W)."""
        return grid if self.downsample is None else self.downsample.grid(grid)

    def lifts(self, readout: str) -> bool:
        """Whether a call with that readout takes lift: only the mixer stands between input and output."""
        plain = self.downsample is None and self.act == self.norm_name == "none" and self.time_table is None
        return plain and self.mixer.takes_lift and self._before_mlp(readout) != "all"

    def __call__(self, x: Arriving, *, readout: str = "all", lift=None, dt=None, key=None):
        """A clip with no past -> (B, T, H', W', C), or (B, H', W', C) for readout "last" and "mean" (over frames).

        lift (R, C), where `lifts(readout)`: x of R channels stands for x @ lift.
        dt (B, T): step lengths, for mixers that take them. key: randomness of drop-path, in training.
        """
        return self.scan(self._no_past(x), x, readout=readout, lift=lift, dt=dt, key=key)[1]

    def pooled(self, x: Arriving, *, readout: str = "all", dt=None, key=None) -> Float[Any, "b c"]:
        """The mean over space of a call, and over frames unless readout is "last", without the call if possible."""
        readout = "mean" if readout == "all" else readout
        if self.mlp is not None or dt is not None or not self.mixer.pools:
            return self(x, readout=readout, dt=dt, key=key).mean((1, 2))
        state = self._no_past(x)
        _, trunk, seen = self._enter(state.norm, x)
        return self._leave(
            select(trunk, readout).mean((1, 2)), self.mixer.pooled(state.mixer, seen, readout=readout), key
        )

    def static(self, x: ArrivingFrame, steps: int, *, readout: str = "last", key=None):
        """One frame (B, H, W, C) repeated `steps` times: what a call gives, in closed form where there is one."""
        x = self._arrive(x)
        seen = self.norm.static(x)
        trunk = seen if self.trunk == "normalised" else x
        if self.time_table is not None:  # the frames that the mixer sees differ
            state = self._no_past(x, arrived=True)
            clip = self._timed(repeat_frame(seen, steps))
            return self._mixed(state.mixer, repeat_frame(trunk, steps), clip, readout, key=key)[1]
        if self.mixer.recurrent and self._before_mlp(readout) != "all":
            return self._leave(trunk, self.mixer.static(None, seen, steps, readout=readout)[1], key)
        if self.mixer.frame_wise:  # a repeated frame gives the same y again
            y = self._mixed((), trunk[:, None], seen[:, None], "last", key=key)[1]
            return repeat_frame(y, steps) if readout == "all" else y
        state, clip, trunk = self._no_past(x, arrived=True), repeat_frame(seen, steps), repeat_frame(trunk, steps)
        return self._mixed(state.mixer, trunk, clip, readout, key=key)[1]

    # Streaming

    def init_state(self, batch: int, grid: Grid) -> BlockState:
        """No past, for input of grid (H, W).

        Raises:
          UsageError: the mixer is not recurrent, or the norm or the time table looks at the whole clip.
        """
        if self.time_table is not None:
            raise UsageError("time_table is over the frames of a whole clip and cannot stream: train without it")
        if not self.mixer.frame_wise:
            require_streaming(self.mixer, self.mixer_name)
        require_streaming(self.norm, self.norm_name)
        return self._fresh(batch, self.grid(grid))

    def step(self, state: BlockState, x: ArrivingFrame, dt=None) -> tuple[BlockState, Frame]:
        """One frame (B, H, W, C), dt (B,) after the last one: the state after it, and its output."""
        x = self._arrive(x)
        norm, seen = self.norm.step(state.norm, x)
        if self.mixer.recurrent:
            mixer, y = self.mixer.step(state.mixer, seen, dt)
        else:
            mixer, y = (), self.mixer(seen[:, None])[:, 0]
        return BlockState(norm, mixer), self._leave(seen if self.trunk == "normalised" else x, y)

    def scan(self, state: BlockState, x: Arriving, *, readout: str = "all", lift=None, dt=None, key=None):
        """A call, from a carried state: the state after it, and what a call gives."""
        norm, trunk, seen = self._enter(state.norm, x)
        mixer, y = self._mixed(state.mixer, trunk, seen, readout, lift=lift, dt=dt, key=key)
        return BlockState(norm, mixer), y

    # The parts: before the mixer, the mixer, after it

    def _arrive(self, x):
        return activation(self.act)(x if self.downsample is None else self.downsample(x))

    def _enter(self, norm_state, x: Arriving):
        """(norm state, what is added to, what the mixer sees)."""
        x = self._arrive(x)
        norm_state, seen = self.norm.scan(norm_state, x)
        return norm_state, seen if self.trunk == "normalised" else x, self._timed(seen)

    def _timed(self, seen: Video) -> Video:
        """What the mixer sees: with the rows of the time table added to the frames."""
        if self.time_table is None:
            return seen
        table = self.time_table[...]
        rows = interpolate_table(table[:, None], (seen.shape[1], 1))  # (t, 1, c)
        return seen + rows[:, None].astype(seen.dtype)

    @property
    def frame_wise(self) -> bool:
        """What it gives for a frame depends on that frame alone."""
        return self.mixer.frame_wise and self.norm.frame_wise and self.time_table is None

    def _mixed(self, state, trunk: Video, seen: Video, readout, *, lift=None, dt=None, key=None):
        """The mixer and what follows on the frames that are read: (mixer state, output)."""
        read = self._before_mlp(readout)
        if self.mixer.recurrent:
            state, y = self.mixer.scan(state, seen, readout=read, dt=dt, lift=lift)
        else:
            if dt is not None:
                require_dt(self.mixer)
            y = select(self.mixer(seen), read)
        trunk = select(trunk, read)
        y = self._leave(trunk if lift is None else trunk @ lift, y, key)
        return state, y if read == readout else select(y, readout)

    def _before_mlp(self, readout: str) -> str:
        """What the MLP must see for it: the mean over frames of its output is not that of their mean."""
        if readout not in READOUTS:
            raise UsageError(f"unknown readout {readout!r}: use {', '.join(READOUTS)}")
        return "all" if self.mlp is not None and readout == "mean" else readout

    def _leave(self, trunk, y, key=None):
        keys = (None, None) if key is None else jax.random.split(key)
        if self.mlp is None or self.mlp_norm is None:
            return trunk + drop_path(_scaled(y, self.layer_scale), self.drop_path, keys[0])
        if self.branches == 1:
            y = _scaled(self.mlp(self.mlp_norm(y)), self.mlp_layer_scale)
            return trunk + drop_path(y, self.drop_path, keys[1])
        x = trunk + drop_path(_scaled(y, self.layer_scale), self.drop_path, keys[0])
        y = self.mlp(self.mlp_norm(x))
        return x + drop_path(_scaled(y, self.mlp_layer_scale), self.drop_path, keys[1])

    def _no_past(self, x, *, arrived: bool = False) -> BlockState:
        grid = x.shape[-3:-1]
        return self._fresh(x.shape[0], grid if arrived else self.grid(grid))

    def _fresh(self, batch: int, grid: Grid) -> BlockState:
        mixer = self.mixer.init_state(batch, grid) if self.mixer.recurrent else ()
        return BlockState(self.norm.init_state(batch, grid), mixer)


def _scale(initial: float | None, channels: int):
    return None if initial is None else nnx.Param(jnp.full((channels,), initial, jnp.float32))


def _scaled(y, scale):
    return y if scale is None else y * scale[...]
