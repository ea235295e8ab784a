"""The mixer: a recurrent layer defined frame by frame, run in parallel over a clip; and the registry of all mixers.

The public methods are written here once: they check their input and hand it to the hooks `_step`, `_scan`, `_static`
and `_pooled` of a concrete mixer, which is one file in `mixers/` that nobody subclasses. What it can do it declares as
class facts. The laws in tests/laws.py hold it to all of this.
"""

import abc
import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar, get_type_hints

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.registry import Registry
from cssm.core.typing import Float, Frame, Grid, Video
from cssm.ops.spectral import given_dt
from cssm.shared.annotations import describe, fits
from cssm.shared.reset import check_reset

from .layer import Layer, check_array, check_grid, check_rngs, check_state

MIXERS: Registry[type["Mixer"] | type["Control"]] = Registry("mixer")
READOUTS = ("all", "last", "mean")
OPTIONS = "\n\n    Options of each mixer, with their defaults:\n"


class Capabilities:
    """What a mixer can do, as facts of its class. It states those that differ from these."""

    kind: ClassVar[str] = "mixer"
    instead: ClassVar[str] = "train one that is causal"
    causal: ClassVar[bool] = True
    """The y of a frame is known when the frame has come. Controls make no such promise."""
    recurrent: ClassVar[bool] = True
    """It carries a state: a Mixer, not a Control."""
    frame_wise: ClassVar[bool] = False
    """The y of a frame depends on that frame alone."""
    takes_dt: ClassVar[bool] = False
    """`step` and `scan` take dt, the step lengths of irregular time: K^dt, by fixed gains."""
    takes_lift: ClassVar[bool] = False
    """`scan` takes lift (R, C): x of R channels that stands for x @ lift, at the cost of R channels."""
    time_invariant: ClassVar[bool] = False
    """The state decays by the same factors at every frame, whatever the input: it has `transition`."""
    pools: ClassVar[bool] = False
    """It has `pooled`, the spatial mean of y without y."""
    closed_form: ClassVar[tuple[str, ...]] = ()
    """The readouts ("last", "mean") for which it has `_static`; the others of `static` scan the repeated frame."""
    static_alone: ClassVar[bool] = False
    """`_static` takes None for a state of no past."""
    turns_inside: ClassVar[bool] = False
    """It has the option `rotary`: it turns its own q and k by position."""
    learns_grid: ClassVar[bool] = False
    """It is built with grid=(H, W), and learns a table on that grid which it interpolates to others."""


class Mixer(Capabilities, Layer):
    """A recurrent, causal layer over a clip. `step` is the definition; `scan` must equal lax.scan(step)."""

    channels: int

    # What a mixer writes, input checked; dt and lift reach those alone that declare them.

    @abc.abstractmethod
    def _step(self, state, x: Frame) -> tuple[Any, Frame]:
        """`step`; with takes_dt also dt=None."""

    @abc.abstractmethod
    def _scan(self, state, x: Video, *, reset=None, readout="all") -> tuple[Any, Video | Frame]:
        """`scan`; with takes_dt also dt=None, with takes_lift also lift=None."""

    @abc.abstractmethod
    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """A number that no entry of the state ever exceeds in modulus, by construction.

        It holds for every clip with |x| <= input_bound on a grid of (H, W) pixels, however long, from no past, with any
        resets, for the parameters as they are. Every float and complex entry counts, past frames too; integers do not.
        The class docstring proves it; nn/shared/bounds.py has the parts. Infinite where a gain has saturated at 1.
        """

    transition: Callable[[Grid], jax.Array]
    """With time_invariant: the factors per frame, (C, H, W // 2 + 1) by frequency or (P, 1, 1) by mode."""
    _static: Callable[..., tuple[Any, Frame]]
    """With closed_form: `static` in closed form; without readout where "last" is the only one."""
    _pooled: Callable[..., jax.Array]
    """With pools: `pooled`."""

    # What users call.

    def step(self, state, x: Frame, dt=None) -> tuple[Any, Frame]:
        """One frame (B, H, W, C), dt (B,) after the last one: the state after it, and its output.

        Raises:
          ShapeError: x, dt or state of other shapes than that. UsageError: dt that is not positive, or no takes_dt.
        """
        _check_input(self, "step", x, "B H W C", self.channels)
        return _shown(x, self._step(_carried(self, state, x), x, **_spans(self, dt, x, 1)))

    def scan(
        self, state, x: Float[Any, "b t h w r"], *, reset=None, readout: str = "all", dt=None, lift=None
    ) -> tuple[Any, Video | Frame]:
        """A clip (B, T, H, W, C) from a carried state: the state after it, and what is read of y.

        Args:
          state: of `init_state`, or of the frames before. x: the clip; (B, T, H, W, R) with lift.
          reset: (B, T) bool; True forgets all frames before that one.
          readout: "all" gives y for every frame; "last" and "mean" (over frames) give (B, H, W, C), by the cheapest
            exact path.
          dt: (B, T), the time from each frame's predecessor to it, for mixers that declare takes_dt; None is 1.
          lift: (R, C), for mixers that declare takes_lift: x stands for x @ lift.

        Raises:
          ShapeError: an array whose shape or dtype does not fit. UsageError: an unknown readout, dt or lift that this
            mixer cannot honour, dt that is not positive.
        """
        given = {} if lift is None else {"lift": _checked_lift(self, lift, x)}
        _check_input(self, "scan", x, "B T H W C", self.channels if lift is None else lift.shape[0])
        _check_readout(self, "scan", readout, READOUTS)
        check_reset(type(self).__name__, reset, x.shape[:2])
        state = _carried(self, state, x)
        return _shown(x, self._scan(state, x, reset=reset, readout=readout, **_spans(self, dt, x, 2), **given))

    def static(self, state, x: Frame, steps: int, *, readout: str = "last") -> tuple[Any, Frame]:
        """One frame repeated `steps` times: the state after it and the last (or mean) y, in closed form where there is.

        state: of `init_state`, or of the frames before; None for no past, at less cost where `static_alone`.

        Raises:
          ShapeError: x or state that does not fit, no steps. UsageError: a readout other than last and mean.
        """
        _check_input(self, "static", x, "B H W C", self.channels)
        _check_readout(self, "static", readout, READOUTS[1:])
        if not fits(steps, int) or steps < 1:
            raise ShapeError(f"{type(self).__name__}.static: steps is {steps!r}, expected at least one frame")
        closed = readout in self.closed_form
        if state is None and not (closed and self.static_alone):
            state = self.init_state(x.shape[0], x.shape[1:3])
        state = None if state is None else _carried(self, state, x)
        if not closed:
            return _shown(x, self._scan(state, repeat_frame(x, steps), readout=readout))
        return _shown(x, self._static(state, x, steps, **({"readout": readout} if "mean" in self.closed_form else {})))

    def pooled(self, state, x: Video, *, readout: str = "all") -> Float[Any, "b *t c"]:
        """The spatial mean of `scan`'s y, (B, T, C) or (B, C), without computing y.

        Raises:
          ShapeError: x or state that does not fit. UsageError: an unknown readout, or a mixer that does not declare
            pools.
        """
        if not self.pools:
            raise UsageError(
                f"{type(self).__name__} cannot pool by itself: take the mean over space of what scan gives"
            )
        _check_input(self, "pooled", x, "B T H W C", self.channels)
        _check_readout(self, "pooled", readout, READOUTS)
        return self._pooled(_carried(self, state, x), x, readout=readout).astype(x.dtype)

    def __call__(self, x: Video, *, dt=None) -> Video:
        """y for every frame of a clip (B, T, H, W, C) with no past."""
        _check_input(self, "__call__", x, "B T H W C", self.channels)
        return self.scan(self.init_state(x.shape[0], x.shape[2:4]), x, dt=dt)[1]


class Control(Capabilities, nnx.Module, abc.ABC):
    """A mixer that is not recurrent: no state, no step, no streaming. A baseline, and it says so."""

    causal: ClassVar[bool] = False
    recurrent: ClassVar[bool] = False
    channels: int

    @abc.abstractmethod
    def _mix(self, x: Video) -> Video:
        """The call, input checked."""

    def __call__(self, x: Video) -> Video:
        """y for every frame of a clip (B, T, H, W, C). Raises ShapeError: another shape, or no floating point."""
        _check_input(self, "__call__", x, "B T H W C", self.channels)
        return self._mix(x).astype(x.dtype)


def _carried(mixer: Mixer, state, x):
    """The state, of the shapes that x has need of; float64 where x is or the parameters are: no carry is narrower."""
    check_state(state, x, mixer)
    if jax.dtypes.canonicalize_dtype("float64") != "float64":
        return state
    double = jnp.result_type(x.dtype, *(p.dtype for p in jax.tree.leaves(nnx.state(mixer, nnx.Param)))) == jnp.float64
    promoted = lambda v: v.astype(jnp.promote_types(v.dtype, jnp.float64))  # noqa: E731
    return jax.tree.map(lambda v: promoted(v) if double and jnp.issubdtype(v.dtype, jnp.inexact) else v, state)


def _shown(x, result):
    """(state, y) with y in the dtype of x, whatever that of the parameters."""
    state, y = result
    return state, y.astype(x.dtype)


def require_dt(mixer: Any) -> None:
    """A UsageError unless the mixer can honour irregular time."""
    if not mixer.takes_dt:
        raise UsageError(
            f"{type(mixer).__name__} cannot honour dt: irregular time, K^dt, needs fixed gains; "
            "`cssm list mixers` shows which mixers take it"
        )


def select(y: Video, readout: str) -> Video | Frame:
    """All frames, the last one, or their mean: for mixers without a shortcut."""
    return {"all": lambda: y, "last": lambda: y[:, -1], "mean": lambda: y.mean(1)}[readout]()


def repeat_frame(x: Frame, steps: int) -> Video:
    """(B, H, W, C) -> (B, steps, H, W, C): a static clip."""
    return jnp.broadcast_to(x[:, None], (x.shape[0], steps, *x.shape[1:]))


def list_mixers() -> list[str]:
    """Names of all registered mixers."""
    return MIXERS.names()


def options_of(name: str) -> dict[str, Any]:
    """The keyword arguments that the mixer of that name has of its own, with their types.

    >>> options_of("conv_ssm")
    {'kernel_size': <class 'int'>}
    """
    hints = get_type_hints(MIXERS[name].__init__)
    return {option: hint for option, hint in hints.items() if option not in ("channels", "grid", "rngs", "return")}


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
    check_rngs(rngs)
    if not fits(channels, int) or channels < 1:
        raise UsageError(f"mixer {name!r}: channels is {channels!r}, expected an integer of at least 1")
    if grid is not None:
        check_grid(f"mixer {name!r}", grid)
    offered = options_of(name)
    unknown = sorted(set(options) - set(offered))
    if unknown:
        what = f"its options are {', '.join(sorted(offered))}" if offered else "it has no options"
        raise UsageError(f"mixer {name!r} cannot honour {', '.join(unknown)}; {what}")
    for option, value in options.items():
        if not fits(value, offered[option]):
            raise UsageError(f"mixer {name!r}: {option} is {value!r}, expected {describe(offered[option])}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"mixer {name!r}: {option} is {value!r}, expected a finite number")
    table = {"grid": grid} if cls.learns_grid else {}
    return cls(channels=channels, rngs=rngs, **table, **options)


def document_options() -> None:
    """Put the options of every registered mixer at the end of the docstring of `create_mixer`: help lists them."""
    lines = []
    for name in MIXERS.names():
        parameters = inspect.signature(MIXERS[name].__init__).parameters
        options = ", ".join(f"{option}={parameters[option].default!r}" for option in options_of(name))
        lines.append(f"  {name}: {options or 'no options'}")
    create_mixer.__doc__ = f"{(create_mixer.__doc__ or '').partition(OPTIONS)[0].rstrip()}{OPTIONS}" + "\n".join(
        f"    {line}" for line in lines
    )


def _check_input(mixer: Any, method: str, x, legend: str, channels: int) -> None:
    """x must be floating point, of the legend's rank, of that many channels, and not empty."""
    name = type(mixer).__name__
    check_array(name, x)
    if x.ndim != len(legend.split()):
        frame = len(legend.split()) == 4
        what, other = ("a frame", "scan takes clips") if frame else ("a clip", "step takes frames")
        shape = ", ".join(legend.split())
        raise ShapeError(f"{name}.{method} takes {what} ({shape}), got shape {x.shape}; {other}")
    if x.shape[-1] != channels:
        raise ShapeError(f"{name} was built for {channels} channels, got an input of shape {x.shape}")
    if 0 in x.shape:
        raise ShapeError(f"{name}: the input of shape {x.shape} is empty: give at least one frame and pixel")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ShapeError(f"{name} takes floating point, got {x.dtype}: convert, for 8 bits x / 255")


def _check_readout(mixer: Any, method: str, readout: str, known: tuple[str, ...]) -> None:
    if readout not in known:
        shown = f"{', '.join(known[:-1])} or {known[-1]}"
        raise UsageError(f"{type(mixer).__name__}.{method}: unknown readout {readout!r}, use {shown}")


def _spans(mixer: Mixer, dt, x, axes: int) -> dict[str, Any]:
    """dt as the hooks take it: not at all, or checked, with None where every step is 1."""
    if mixer.takes_dt:
        return {"dt": given_dt(dt, x.shape[:axes], jnp.promote_types(x.dtype, jnp.float32))}
    if dt is not None:
        require_dt(mixer)
    return {}


def _checked_lift(mixer: Mixer, lift, x):
    name = type(mixer).__name__
    if not mixer.takes_lift:
        raise UsageError(f"{name} cannot honour lift: give it x @ lift")
    if jnp.shape(lift) != (x.shape[-1], mixer.channels):
        raise ShapeError(f"{name}: lift has shape {jnp.shape(lift)}, expected {(x.shape[-1], mixer.channels)} (R, C)")
    return lift
