"""What SimpleCSSM and the hosts are as modules: a stem, blocks, a readout; in parallel, on images, and in streams.

An architecture's own file has its configuration and puts the parts together; all that runs them is here. An image (B,
H, W, C) stands for `seq_len` repeats of it, at time 0. Source: docs/math.md section 6.
"""

import abc
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Float, Grid, Int, Logits, RawFrame, RawVideo
from cssm.nn.block import Block
from cssm.nn.mixer import repeat_frame, require_dt
from cssm.nn.parts.activation import activation
from cssm.nn.parts.position import Time, resample_table, rotary_angles, rotate, steps_between
from cssm.nn.parts.readout import Readout
from cssm.nn.parts.stem import Stem
from cssm.nn.shared.running import counted
from cssm.nn.stack import LayerFacts, Stack
from cssm.ops.spectral import check_dt

from .model import Model, check_input


class HostState(NamedTuple):
    frames: Int[Any, "b"]  # how many there were
    time: Time  # of the last one, in frames of the training data
    stack: tuple
    readout: Any


class Host(Model):
    """Abstract. Its subclasses build the parts and hand them to `_assemble`; they override nothing.

    rotary: features are turned by their positions in time and space before the first block. act: activation after the
    stem, unless it has one. seq_len: frames that an image stands for; unroll: how, see `cssm.nn.Stack.static`. grid:
    (H, W) pixels that it was built for. lifts: nothing but an affine map of pixels may stand before the first mixer,
    which is then handed over. positions: a table (H', W', C) that is added to what arrives at the first block.
    """

    @abc.abstractmethod
    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        """Build the parts, then `_assemble`."""

    def _assemble(
        self, stem: Stem, blocks: Iterable[Block], head: Readout, *, rotary: bool, act: str, seq_len: int, unroll: str,
        grid: Grid, lifts: bool = False, remat: bool = False, positions: nnx.Param | None = None,
    ) -> None:  # fmt: skip
        self.stem, self.stack, self.head = stem, Stack(blocks, remat=remat), head
        self.rotary, self.act, self.seq_len, self.unroll = rotary, act, seq_len, unroll
        self.grid: Grid = (grid[0], grid[1])
        self.positions = positions
        plain = act == "none" and not rotary and positions is None
        self.affine = lifts and plain and stem.affine_in_pixels
        # frames that do not see each other: of the last one, no other is needed
        self.apart = not rotary and all(b.frame_wise for b in self.stack.blocks)

    @property
    def num_features(self) -> int:
        """Channels of `features`."""
        return self.head.channels

    @property
    def reduction(self) -> int:
        """Pixels along each side of the image that one place of `features` stands for."""
        strides = [block.stride for block in self.stack.blocks]
        return self.stem.stride * int(np.prod(strides))

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
        if self.apart and x.ndim == 5 and frames == "last":
            x = x[:, -1]
        if self.head.pool != "mean":
            return self.head(self._features(x, frames, dt, key))
        return self.head.logits(self._pooled(x, "mean" if frames == "all" else frames, dt, key))

    def features(self, x: RawVideo | RawFrame, *, dt=None, key=None) -> Float[Any, "b *t h w c"]:
        """What is read: (B, H', W', C) of the last frame or the mean over frames, (B, T, H', W', C) with readout="all".

        Arguments and errors as in a call; `head` gives its logits.
        """
        self._check(x, dt)
        if self.apart and x.ndim == 5 and self.head.frames == "last":
            x = x[:, -1]
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

    def init_state(self, batch: int, grid: Grid) -> HostState:
        """No past, for frames of grid (H, W) pixels.

        Raises:
          UsageError: the mixer is not recurrent, or the norm or a time table looks at the whole clip.
        """
        inner = self.stem.grid(grid)
        stack, readout = self.stack.init_state(batch, inner), self.head.init_state(batch, self.stack.grid(inner))
        return HostState(jnp.zeros((batch,), jnp.int32), Time.zero(batch), stack, readout)

    def step(self, state: HostState, x: RawFrame, dt=None) -> tuple[HostState, Logits]:
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
        return HostState(counted(state.frames, 1), time, stack, readout), logits

    def scan(self, state: HostState, x: RawVideo, dt=None) -> tuple[HostState, Logits]:
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
        return HostState(counted(state.frames, x.shape[1]), time, stack, readout), logits

    def _arrive(self, state: HostState, x: RawVideo, dt):
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
        if self.positions is not None:
            y = y + resample_table(self.positions[...], (y.shape[-3], y.shape[-2])).astype(y.dtype)
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
            if block.time_table is not None:
                raise UsageError("time_table counts frames, whatever the time between them: leave dt out")
        check_dt(dt, x.shape[:2])
