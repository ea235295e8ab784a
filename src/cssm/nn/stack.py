"""Blocks in a row: the trunk of a model, which computes nothing that is not read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid

from .block import Arriving, ArrivingFrame, Block, BlockState
from .mixer import repeat_frame

UNROLLS = ("network", "block")


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """One mixer of a model, where it stands."""

    name: str
    """Its place and registry name, e.g. "layer 1: no_gate"."""
    mixer: Any
    """The module itself."""
    grid: Grid
    """(H, W) of the pixels it mixes."""
    channels: int
    """Of those pixels."""


class Stack(nnx.Module):
    """Blocks one after another, on a grid that their strides make coarser.

    All but the last block give every frame; the last gives what is read. A block's drop-path key is key folded with its
    index. Whatever has the methods of Block can stand in a stack. With remat the gradient keeps what goes into every
    block, and computes the block again.

    >>> blocks = [Block("no_gate", 8, grid=(8, 8), rngs=nnx.Rngs(i), stride=s) for i, s in enumerate((1, 2))]
    >>> stack = Stack(blocks)
    >>> x = jax.numpy.ones((1, 4, 8, 8, 8))
    >>> stack(x, readout="last").shape
    (1, 4, 4, 8)
    """

    def __init__(self, blocks: Iterable[Block], *, remat: bool = False):
        self.blocks, self.remat = nnx.List(list(blocks)), remat
        if not self.blocks:
            raise UsageError("a stack has zero blocks, expected at least 1")

    def lifts(self, readout: str) -> bool:
        """Whether a call with that readout takes lift: there is one block, and it does."""
        return len(self.blocks) == 1 and self.blocks[0].lifts(readout)

    def __call__(self, x: Arriving, *, readout: str = "all", lift=None, dt=None, key=None):
        """A clip with no past -> (B, T, H', W', C), or (B, H', W', C) for readout "last" and "mean"; as `Block`."""
        *first, (last, part) = self._keyed(key)
        x = self._run(first, x, dt)
        return self._kept(lambda x: last(x, readout=readout, lift=lift, dt=dt, key=part), x)

    def pooled(self, x: Arriving, *, readout: str = "all", dt=None, key=None) -> Float[Any, "b c"]:
        """The mean over space of a call, and over frames unless readout is "last"."""
        *first, (last, part) = self._keyed(key)
        x = self._run(first, x, dt)
        return self._kept(lambda x: last.pooled(x, readout=readout, dt=dt, key=part), x)

    def static(
        self, x: ArrivingFrame, steps: int, *, readout: str = "last", unroll: str = "network", pooled: bool = False,
        key=None,
    ) -> Float[Any, "b *axes c"]:  # fmt: skip
        """One frame (B, H, W, C) repeated `steps` times; pooled: the mean of that over space, as of `pooled`.

        unroll="network": what a call on the repeated frame gives; in closed form at depth one. unroll="block": every
        block repeats its input from no past and passes its last y on, in closed form at any depth; the last block gives
        what is read. At steps = 1 and at depth 1 both are the same.

        Raises:
          UsageError: an unknown unroll.
        """
        check_unroll(unroll)
        *first, (last, last_part) = self._keyed(key)
        if unroll == "network" and first:
            (block, part), *rest = first
            clip = self._run(rest, self._kept(lambda x: block.static(x, steps, readout="all", key=part), x), None)
            end = last.pooled if pooled else last
            return self._kept(lambda x: end(x, readout=readout, key=last_part), clip)
        for block, part in first:
            x = self._kept(lambda x, block=block, part=part: block.static(x, steps, key=part), x)
        readout = "mean" if pooled and readout == "all" else readout
        y = self._kept(lambda x: last.static(x, steps, readout=readout, key=last_part), x)
        return y.mean((1, 2)) if pooled else y

    def intermediates(self, x: Arriving, blocks: Sequence[int] | None = None, *, dt=None, key=None) -> tuple[Any, ...]:
        """All frames after the blocks of those indices (-1 is the last; all when omitted), in the order asked for.

        Raises:
          UsageError: an index of no block.
        """
        return self._after(x, blocks, key, lambda block, x, part: block(x, dt=dt, key=part))

    def static_intermediates(
        self, x: ArrivingFrame, steps: int, blocks: Sequence[int] | None = None, *, unroll: str = "network", key=None
    ) -> tuple[Any, ...]:
        """`intermediates` of a repeated frame: all frames, or with unroll="block" the one passed on, (B, H, W, C)."""
        check_unroll(unroll)
        if unroll == "network":
            return self.intermediates(repeat_frame(x, steps), blocks, key=key)
        return self._after(x, blocks, key, lambda block, x, part: block.static(x, steps, key=part))

    def grid(self, grid: Grid) -> Grid:
        """The grid of the output, for input of (H, W)."""
        return self._grids(grid)[-1]

    def layers(self, grid: Grid) -> tuple[LayerFacts, ...]:
        """Every mixer, for input of grid (H, W)."""
        places = enumerate(zip(self.blocks, self._grids(grid)[1:], strict=True), 1)
        return tuple(
            LayerFacts(name=f"layer {i}: {b.mixer_name}", mixer=b.mixer, grid=g, channels=b.channels)
            for i, (b, g) in places
        )

    # Streaming

    def init_state(self, batch: int, grid: Grid) -> tuple[BlockState, ...]:
        """No past, for input of grid (H, W). Raises UsageError where a block cannot stream."""
        return tuple(b.init_state(batch, g) for b, g in zip(self.blocks, self._grids(grid)[:-1], strict=True))

    def step(self, state: tuple[BlockState, ...], x: ArrivingFrame, dt=None) -> tuple[tuple[BlockState, ...], Frame]:
        """One frame (B, H, W, C), dt (B,) after the last one: the state after it, and its output."""
        after = []
        for block, past in zip(self.blocks, state, strict=True):
            past, x = block.step(past, x, dt)
            after.append(past)
        return tuple(after), x

    def scan(self, state: tuple[BlockState, ...], x: Arriving, *, readout: str = "all", dt=None):
        """A clip from a carried state: the state after it, and what a call gives."""
        after = []
        for i, (block, past) in enumerate(zip(self.blocks, state, strict=True), 1):
            past, x = block.scan(past, x, readout=readout if i == len(self.blocks) else "all", dt=dt)
            after.append(past)
        return tuple(after), x

    def _keyed(self, key) -> list[tuple[Block, Any]]:
        fold = lambda i: None if key is None else jax.random.fold_in(key, i)  # noqa: E731
        return [(block, fold(i)) for i, block in enumerate(self.blocks)]

    def _run(self, keyed: list[tuple[Block, Any]], x, dt):
        for block, part in keyed:
            x = self._kept(lambda x, block=block, part=part: block(x, dt=dt, key=part), x)
        return x

    def _kept(self, function, x):
        """function(x), of which the gradient keeps x alone, with remat."""
        return jax.checkpoint(function)(x) if self.remat else function(x)

    def _after(self, x, blocks: Sequence[int] | None, key, run) -> tuple[Any, ...]:
        """What run(block, x, its key) gives after each of the blocks asked for; no further block is run."""
        depth = len(self.blocks)
        blocks = range(depth) if blocks is None else blocks
        if outside := [i for i in blocks if not -depth <= i < depth]:
            raise UsageError(f"there is no block {outside[0]}: the model has blocks 0 to {depth - 1}")
        wanted, outputs = [i % depth for i in blocks], []
        for block, part in self._keyed(key)[: max(wanted, default=-1) + 1]:
            x = run(block, x, part)
            outputs.append(x)
        return tuple(outputs[i] for i in wanted)

    def _grids(self, grid: Grid) -> list[Grid]:
        """Of the input, and after every block."""
        grids = [grid]
        for block in self.blocks:
            grids.append(block.grid(grids[-1]))
        return grids


def check_unroll(unroll: str) -> None:
    """Raises UsageError unless unroll is one that `Stack.static` knows."""
    if unroll not in UNROLLS:
        raise UsageError(f"unknown unroll {unroll!r}: use {' or '.join(UNROLLS)}")
