"""The mixer contract: one operator, defined by `step`, run in parallel by `scan`, and its registry.

A concrete mixer is one file in `mixers/`; nobody subclasses it. The laws in tests/laws.py hold it to this contract.
"""

import abc
import inspect
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.registry import Registry
from cssm.core.typing import Frame, Grid, Video
from cssm.ops.reset import check_reset
from cssm.ops.spectral import given_dt as given_dt  # for mixers that take dt
from cssm.shared.annotations import describe, fits

MIXERS: Registry[type["Mixer"] | type["Control"]] = Registry("mixer")


class Mixer(nnx.Module, abc.ABC):
    """A recurrent, causal layer over a clip. `step` is the definition; `scan` must equal lax.scan(step)."""

    causal: ClassVar[bool] = True

    @abc.abstractmethod
    def init_state(self, batch: int, grid: Grid) -> Any:
        """No past: a NamedTuple of float32 / complex64 arrays, a plain pytree."""

    @abc.abstractmethod
    def step(self, state, x: Frame) -> tuple[Any, Frame]:
        """One frame (B, H, W, C): the state after it, and its output."""

    @abc.abstractmethod
    def scan(self, state, x: Video, *, reset=None, readout: str = "all") -> tuple[Any, Video | Frame]:
        """A clip (B, T, H, W, C) from a carried state. reset (B, T) bool forgets all frames before that one.

        readout "all" gives y for every frame; "last" and "mean" (over frames) give (B, H, W, C) by the cheapest
        exact path.
        """

    @abc.abstractmethod
    def static(self, state, x: Frame, steps: int, *, readout: str = "last") -> tuple[Any, Frame]:
        """One frame repeated `steps` times: the last (or mean) y, in closed form where there is one."""

    @abc.abstractmethod
    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """A number that no entry of the state ever exceeds in modulus, by construction.

        It holds for every clip with |x| <= input_bound on a grid of (H, W) pixels, however long, from no past, with any
        resets, for the parameters as they are. Every float and complex entry counts, past frames too; integers do not.
        The class docstring proves it; nn/shared/bounds.py has the parts. Infinite where a gain has saturated at 1.
        """

    def __call__(self, x: Video, **options) -> Video:
        """y for every frame of a clip with no past; options of `scan`, such as dt."""
        return self.scan(self.init_state(x.shape[0], x.shape[2:4]), x, **options)[1]


class Control(nnx.Module, abc.ABC):
    """A mixer that is not recurrent: no state, no step, no streaming. A baseline, and it says so."""

    causal: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, x: Video) -> Video:
        """y for every frame of a clip (B, T, H, W, C)."""


@runtime_checkable
class SpatiallyPooled(Protocol):
    """A mixer that can give the spatial mean of its output without computing the output."""

    def pooled(self, state, x: Video, *, readout: str = "all") -> jax.Array: ...


def takes_lift(mixer: Any) -> bool:
    """Whether `scan` takes lift (R, C): x of R channels that stands for x @ lift, at the cost of R channels."""
    return isinstance(mixer, Mixer) and "lift" in inspect.signature(mixer.scan).parameters


def takes_dt(mixer: Any) -> bool:
    """Whether `scan` and `step` take dt, (B, T) and (B,) step lengths: a mixer or its class."""
    return "dt" in inspect.signature(getattr(mixer, "scan", takes_dt)).parameters


def require_dt(mixer: Any) -> None:
    """A UsageError unless the mixer can honour irregular time."""
    if not takes_dt(mixer):
        raise UsageError(
            f"{type(mixer).__name__} cannot honour dt: irregular time, K^dt, needs fixed gains; "
            "`cssm list mixers` shows which mixers take it"
        )


@runtime_checkable
class LinearTimeInvariant(Protocol):
    """A mixer whose state decays by the same factor at every frame, whatever the input."""

    def transition(self, grid: Grid) -> jax.Array:
        """(C, H, W // 2 + 1) or (C, 1, 1): the factor per frame, complex or real."""
        ...


def create_mixer(name: str, *, channels: int, grid: Grid | None = None, rngs: nnx.Rngs, **options):
    """Build a mixer by its registry name.

    Args:
      name: see `list_mixers()`. channels: C. grid: (H, W) of the training grid, for mixers that learn a table on it.
      rngs: nnx.Rngs for the initial parameters. options: the mixer's own keyword arguments.

    Raises:
      UnknownNameError: no such mixer (with "did you mean"). UsageError: an option the mixer does not have, or of
        a wrong type.

    >>> from flax import nnx
    >>> create_mixer("no_gate", channels=4, kernel_size=3, rngs=nnx.Rngs(0)).recurrence_kernel.shape
    (4, 3, 3)
    """
    cls: Any = MIXERS[name]
    known = inspect.signature(cls.__init__).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        offered = sorted(set(known) - {"self", "channels", "grid", "rngs"})
        raise UsageError(f"mixer {name!r} cannot honour {', '.join(unknown)}; its options are {', '.join(offered)}")
    for option, value in options.items():
        expected = known[option].annotation
        if not fits(value, expected):
            raise UsageError(f"mixer {name!r}: {option} is {value!r}, expected {describe(expected)}")
    if "grid" in known:
        options["grid"] = grid
    return cls(channels=channels, rngs=rngs, **options)


def has_option(name: str, option: str) -> bool:
    """Whether the mixer of that name takes that keyword argument."""
    return option in inspect.signature(MIXERS[name].__init__).parameters


def list_mixers() -> list[str]:
    """Names of all registered mixers."""
    return MIXERS.names()


def check_channels(x, channels: int, mixer: Any) -> None:
    if x.shape[-1] != channels:
        raise ShapeError(f"{type(mixer).__name__} was built for {channels} channels, got an input of shape {x.shape}")


def check_state(state, x, mixer: Any, reset=None) -> None:
    """The state must be one of `init_state` for the batch and grid of x, a clip or a frame; reset (B, T) bool."""
    check_reset(type(mixer).__name__, reset, x.shape[:2])
    expected = jax.eval_shape(lambda: mixer.init_state(x.shape[0], x.shape[-3:-1]))
    got, fits = ([leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (state, expected))
    if got != fits:
        shapes = f"state shapes {got} do not fit an input of shape {x.shape}, expected {fits}"
        raise ShapeError(f"{type(mixer).__name__}: {shapes}; start from init_state(batch, grid)")


def check_step(state, x, mixer: Any) -> None:
    if x.ndim != 4:
        raise ShapeError(
            f"{type(mixer).__name__}.step takes a frame (B, H, W, C), got shape {x.shape}; scan takes clips"
        )
    check_channels(x, mixer.channels, mixer)
    check_state(state, x, mixer)


def check_static(steps: int, readout: str, mixer: Any) -> None:
    if steps < 1:
        raise ShapeError(f"{type(mixer).__name__}.static: steps is {steps}, expected at least one frame")
    if readout not in ("last", "mean"):
        raise UsageError(f"{type(mixer).__name__}.static: unknown readout {readout!r}, use last or mean")


def select(y: Video, readout: str) -> Video | Frame:
    """All frames, the last one, or their mean: for mixers without a shortcut."""
    if readout not in ("all", "last", "mean"):
        raise UsageError(f"unknown readout {readout!r}: use all, last or mean")
    return {"all": lambda: y, "last": lambda: y[:, -1], "mean": lambda: y.mean(1)}[readout]()


def repeat_frame(x: Frame, steps: int) -> Video:
    """(B, H, W, C) -> (B, steps, H, W, C): a static clip, for mixers without a closed form."""
    return jnp.broadcast_to(x[:, None], (x.shape[0], steps, *x.shape[1:]))
