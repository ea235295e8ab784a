"""What everything above the models knows of one: two protocols, a configuration and the module it makes."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Grid
from cssm.nn.layer import ChecksSizes, check_array
from cssm.nn.stack import LayerFacts

DEEPEST = 1000  # blocks: each is compiled on its own


@runtime_checkable
class ModelConfig(Protocol):
    """A frozen dataclass of plain values that describes a model."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def make(self, rngs: nnx.Rngs) -> Any:
        """The model, a `Model`, with its initial parameters."""
        ...

    def fitted(self, input_shape: tuple[int, ...], outputs: int) -> "ModelConfig":
        """The configuration for images (H, W, C) or clips (T, H, W, C), and that many outputs."""
        ...


class Model(ChecksSizes, nnx.Module, abc.ABC):
    """A trunk that reads frames, and a head on top of it.

    A call is `head(features(x))`, by a shorter way where there is one. `step` is a call on the frames so far, one frame
    at a time; `scan` takes many. The laws in tests/model_laws.py hold every registered model to this.
    """

    head: Callable[[Any], Any]
    """features -> output: a module or a method."""

    @abc.abstractmethod
    def __call__(self, x, *, dt=None, key=None) -> Any:
        """The output for clips (B, T, H, W, C) or images (B, H, W, C).

        dt (B, T): the time from each frame's predecessor to it; 1 when omitted. key: randomness of training.
        """

    @abc.abstractmethod
    def features(self, x, *, dt=None, key=None) -> Any:
        """What the head reads, (B, [T,] H', W', C), before it is pooled."""

    @property
    def num_features(self) -> int:
        """Channels of `features`."""
        raise UsageError(f"{type(self).__name__} does not say how many features it has: see features(x).shape")

    @property
    def reduction(self) -> int:
        """Pixels along each side of a frame that one place of `features` stands for."""
        raise UsageError(f"{type(self).__name__} does not say by how much it reduces: see features(x).shape")

    def intermediates(self, x, blocks: Sequence[int] | None = None, *, dt=None, key=None) -> tuple[Any, ...]:
        """The features after the blocks of those indices, every frame of them; of all blocks when omitted."""
        raise UsageError(f"{type(self).__name__} shows no features between its blocks: use features(x)")

    def layers(self, grid: Grid | None = None) -> tuple[LayerFacts, ...]:
        """Its mixers, for frames of grid (H, W) pixels, or for those that it was built for; () for none."""
        return ()

    def reset_classifier(self, outputs: int, rngs: nnx.Rngs) -> None:
        """A new head, with new parameters and that many outputs."""
        raise UsageError(f"{type(self).__name__} keeps its head: build another model")

    def init_state(self, batch: int, grid: Grid) -> Any:
        """No past, for frames of grid (H, W) pixels: a plain pytree. Raises UsageError where it cannot stream."""
        raise UsageError(f"{type(self).__name__} cannot stream: run it on whole clips")

    def step(self, state, x, dt=None) -> tuple[Any, Any]:
        """One more frame (B, H, W, C), dt (B,) after the last one: the state after it, the output for all so far."""
        raise UsageError(f"{type(self).__name__} cannot stream: run it on whole clips")

    def scan(self, state, x, dt=None) -> tuple[Any, Any]:
        """More frames (B, T, H, W, C) at once: the state after them, and the output for all so far."""
        raise UsageError(f"{type(self).__name__} cannot stream: run it on whole clips")


def check_input(x, channels: int) -> None:
    """Raises ShapeError unless x is clips (B, T, H, W, channels) or images (B, H, W, channels), not empty."""
    check_array("the model", x)
    if x.ndim not in (4, 5) or x.shape[-1] != channels:
        raise ShapeError(
            f"the model takes clips (B, T, H, W, {channels}) or images (B, H, W, {channels}), got shape {x.shape}"
        )
    if 0 in x.shape[1:]:
        raise ShapeError(f"the input of shape {x.shape} has zero frames or pixels: give at least one")


SCHEDULES = ("uniform", "linear")


def check_sizes(config: Any, *names: str) -> None:
    """Raises UsageError unless these fields, and the sides of its grid, are at least 1, and depth at most DEEPEST."""
    sizes = {"height of the grid": config.grid[0], "width of the grid": config.grid[1]}
    for name, size in (sizes | {name: getattr(config, name) for name in names}).items():
        if size < 1:
            raise UsageError(f"{name} is {size}, expected at least 1")
    if getattr(config, "depth", 1) > DEEPEST:
        raise UsageError(f"depth is {config.depth}, expected at most {DEEPEST}")


def drop_rates(rate: float, depth: int, schedule: str) -> list[float]:
    """The drop-path rate of every block.

    Raises:
      UsageError: an unknown schedule.

    >>> drop_rates(0.2, 3, "linear"), drop_rates(0.2, 2, "uniform")
    ([0.0, 0.1, 0.2], [0.2, 0.2])
    """
    if schedule not in SCHEDULES:
        raise UsageError(f"unknown drop_path_schedule {schedule!r}: use {' or '.join(SCHEDULES)}")
    return [rate if schedule == "uniform" else rate * i / max(1, depth - 1) for i in range(depth)]


def fitted_to(config: Any, input_shape: tuple[int, ...], outputs: int, *, frames: str) -> Any:
    """A configuration for images (H, W, C) or clips (T, H, W, C) and that many classes. frames: its field of T."""
    *steps, height, width, channels = input_shape
    new = {"grid": (height, width), "in_channels": channels, "num_classes": outputs}
    return dataclasses.replace(config, **new, **({frames: steps[0]} if steps else {}))
