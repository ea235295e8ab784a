"""The protocol of everything that streams. Mixer, norm, readout, block and model speak it.

`step` is the definition, one frame; `scan` takes many frames at once and equals it; a call is `scan` from no past. What
a class can do it declares as class facts, which nobody guesses from a signature.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Grid


def _with_checked_sizes(init_state: Callable) -> Callable:
    @functools.wraps(init_state)
    def checked(self, batch, grid, **options):
        if not isinstance(batch, (int, np.integer)) or batch < 0:
            raise ShapeError(f"{type(self).__name__}.init_state: batch is {batch!r}, expected the number of clips")
        check_grid(f"{type(self).__name__}.init_state", grid)
        return init_state(self, batch, grid, **options)

    return checked


class ChecksSizes:
    """Whose subclasses refuse a batch or grid that is none, by name, in `init_state`."""

    init_state: Callable[..., Any]

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "init_state" in vars(cls):
            cls.init_state = _with_checked_sizes(cls.init_state)


class Layer(ChecksSizes, nnx.Module, abc.ABC):
    """A layer over clips that carries a state from frame to frame."""

    kind: ClassVar[str] = "layer"
    """What errors call it."""
    instead: ClassVar[str] = "train with one that is causal"
    """The remedy where it must stream and cannot."""
    causal: ClassVar[bool] = True
    """What it gives for a frame depends on no later frame."""
    recurrent: ClassVar[bool] = True
    """It has `init_state`, `step` and `scan`."""
    frame_wise: ClassVar[bool] = False
    """What it gives for a frame depends on that frame alone."""

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


def check_grid(name: str, grid: Any) -> None:
    """A ShapeError unless grid is (H, W), two integers of at least 1."""
    pair = isinstance(grid, (tuple, list)) and len(grid) == 2
    if not pair or not all(isinstance(side, (int, np.integer)) and side >= 1 for side in grid):
        raise ShapeError(f"{name}: grid is {grid!r}, expected (H, W) in pixels, two integers of at least 1")


def check_array(name: str, x: Any) -> None:
    """A ShapeError unless x is an array of JAX or NumPy."""
    if not isinstance(x, (jax.Array, np.ndarray)):
        raise ShapeError(
            f"{name} takes an array, got a {type(x).__module__}.{type(x).__name__}: give jnp.asarray of it"
        )


def check_rngs(rngs: Any) -> None:
    """A UsageError unless rngs is nnx.Rngs."""
    if not isinstance(rngs, nnx.Rngs):
        raise UsageError(f"rngs is {rngs!r}, expected nnx.Rngs(seed), with `from flax import nnx`")


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
