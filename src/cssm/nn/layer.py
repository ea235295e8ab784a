"""The protocol of everything that streams. Mixer, norm, readout, block and model speak it.

`step` is the definition, one frame; `scan` takes many frames at once and equals it; a call is `scan` from no past. What
a class can do it declares as class facts, which nobody guesses from a signature.
"""

import abc
from typing import Any, ClassVar

import jax
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Grid


class Layer(nnx.Module, abc.ABC):
    """A layer over clips that carries a state from frame to frame."""

    kind: ClassVar[str] = "layer"
    """What errors call it."""
    instead: ClassVar[str] = "train with one that is causal"
    """The remedy where it must stream and cannot."""
    causal: ClassVar[bool] = True
    """What it gives for a frame depends on no later frame."""
    recurrent: ClassVar[bool] = True
    """It has `init_state`, `step` and `scan`."""

    @abc.abstractmethod
    def init_state(self, batch: int, grid: Grid) -> Any:
        """No past, for frames of (H, W) pixels: a plain pytree of float32, complex64 or int32 arrays, batch first."""

    @abc.abstractmethod
    def step(self, state, x) -> tuple[Any, Any]:
        """One frame (B, H, W, C): the state after it, and its output."""

    @abc.abstractmethod
    def scan(self, state, x) -> tuple[Any, Any]:
        """A clip (B, T, H, W, C) from a carried state: the state after it, and its output."""

    @abc.abstractmethod
    def __call__(self, x) -> Any:
        """The output of a clip with no past."""


def require_streaming(layer: Any, name: str) -> None:
    """A UsageError unless the layer of that name can be run frame by frame: it is recurrent and causal."""
    if not layer.recurrent:
        raise UsageError(f"{layer.kind} {name!r} is not recurrent and cannot stream: train a recurrent one")
    if not layer.causal:
        raise UsageError(f"{layer.kind} {name!r} looks at the whole clip and cannot stream: {layer.instead}")


def check_state(state, x, layer: Layer) -> None:
    """A ShapeError unless the state is one of `init_state` for the batch and grid of x, a clip or a frame."""
    expected = jax.eval_shape(lambda: layer.init_state(x.shape[0], x.shape[-3:-1]))
    name, remedy = type(layer).__name__, "start from init_state(batch, grid)"
    got, fits = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (state, expected))
    if got != fits:
        shapes = f"state shapes {got} do not fit an input of shape {x.shape}, expected {fits}"
        raise ShapeError(f"{name}: {shapes}; {remedy}")
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise ShapeError(f"{name}: the state is a {type(state).__name__}, not a {type(expected).__name__}; {remedy}")
