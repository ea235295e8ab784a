"""Spectral cells: recurrences on the spectra of frames whose gates change from frame to frame.

`cell_scan` runs one over a clip, `cell_step` over a frame. Equations and costs are in this folder's README.md.
"""

from typing import Any

import jax.numpy as jnp

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Complex, Float, Reset
from cssm.shared.cell import blocks
from cssm.shared.radix_plan import FULL

from ..spectral.native_call import why_not, why_not_picked
from .cells import EPSILON, Cell, convolution, delta, gated, opponent, system
from .native import native
from .plain import frame, plain

IMPLEMENTATIONS = {"native": native, "plain": plain}
READOUTS = ("all", "mean", "none")

__all__ = [
    "EPSILON", "IMPLEMENTATIONS", "Cell", "cell_explain", "cell_scan", "cell_step", "convolution", "delta", "filtered",
    "gated", "opponent", "system", "why_plain",
]  # fmt: skip


def cell_scan(
    cell: Cell,
    x: Float[Any, "b t h w ic"],
    planes: Float[Any, "b t p h wf"],
    gates: Float[Any, "b t a c"],
    statics: Complex[Any, "k c h wf"],
    state: Complex[Any, "b s c h wf"],
    *,
    reset: Reset | None = None,
    readout: str = "all",
    implementation: str | None = None,
) -> tuple[Complex[Any, "b s c h wf"], Any]:
    """A cell over the frames of a clip.

    Args:
      cell: `gated()`, `opponent(rho)` or `delta(width)`, with as many of everything as its `counts` say.
      x: (B, T, H, W, I C), field i in channels i C .. (i + 1) C. planes: gates per frame and frequency, for all
        channels. gates: per frame and channel. statics: what does not change over time. state: before the clip.
      reset: (B, T) bool; True forgets all that came before.
      readout: "all" fields that go out, their "mean" over frames, or "none", where the state is enough.
      implementation: "native" (compiled, on CPUs) or "plain"; the faster one measured when omitted, see
        `cell_explain`.

    Returns:
      (state, y): after the last frame; (B, T, H, W, O C), (B, H, W, O C) for the mean, None for none.

    Raises:
      ShapeError: arrays that do not fit the cell. UsageError: an unknown readout or implementation, or one that cannot
        run here.

    >>> clip, planes = jnp.ones((1, 3, 4, 4, 2)), jnp.full((1, 3, 3, 4, 3), 0.5)
    >>> statics, state = jnp.ones((1, 2, 4, 3), complex), jnp.zeros((1, 1, 2, 4, 3), complex)
    >>> state, y = cell_scan(gated(), clip, planes, jnp.zeros((1, 3, 0, 2)), statics, state)
    >>> y[0, :, 0, 0, 0].tolist()
    [0.25, 0.375, 0.4375]
    """
    _check(cell, x, planes, gates, statics, state)
    if readout not in READOUTS:
        raise UsageError(f"unknown readout {readout!r} of cell_scan: use {', '.join(READOUTS)}")
    if implementation not in (None, *IMPLEMENTATIONS):
        raise UsageError(f"unknown implementation {implementation!r} of cell_scan: use native or plain")
    (height, width), channels = x.shape[2:4], state.shape[2]
    reason = why_not(height, width) if implementation == "native" else why_plain(height, width, channels, state.dtype)
    if implementation == "native" and reason is not None:
        raise UsageError(f"implementation='native' of cell_scan cannot run here: {reason}; leave it out")
    if implementation == "plain" or reason is not None or 0 in x.shape:
        return plain(cell, x, planes, gates, statics, state, reset, readout)
    state, y = native(cell, x, planes, gates, statics, state, reset, readout != "none")
    return state, y.mean(1) if readout == "mean" else y


def cell_step(
    cell: Cell,
    x: Float[Any, "b h w ic"],
    planes: Float[Any, "b p h wf"],
    gates: Float[Any, "b a c"],
    statics: Complex[Any, "k c h wf"],
    state: Complex[Any, "b s c h wf"],
) -> tuple[Complex[Any, "b s c h wf"], Float[Any, "b h w oc"]]:
    """One frame of `cell_scan`: its arguments without the axis of time, and the state and field after it."""
    if why_plain(x.shape[1], x.shape[2], state.shape[2], state.dtype) is not None or 0 in x.shape:
        return frame(cell, x, planes, gates, statics, state)
    state, y = native(cell, x[:, None], planes[:, None], gates[:, None], statics, state, None, True)
    return state, y[:, 0]


def filtered(x: Float[Any, "b t h w c"], spectrum: Complex[Any, "c h wf"]) -> Float[Any, "b t h w c"]:
    """Every frame convolved, on a periodic grid, with the kernel of that spectrum.

    >>> filtered(jnp.ones((1, 2, 4, 4, 3)), jnp.full((3, 4, 3), 0.5 + 0j)).mean().item()
    0.5
    """
    (batch, steps, *_, channels), half = x.shape, spectrum.shape[1:]
    planes, gates = jnp.zeros((batch, steps, 0, *half), x.dtype), jnp.zeros((batch, steps, 0, channels), x.dtype)
    state = jnp.zeros((batch, 0, *spectrum.shape), spectrum.dtype)
    return cell_scan(convolution(), x, planes, gates, spectrum[None], state)[1]


def cell_explain(x: Float[Any, "b t h w ic"], state: Complex[Any, "b s c h wf"]) -> str:
    """Which implementation `cell_scan` picks for this clip and state here, and why.

    >>> cell_explain(jnp.ones((1, 3, 4, 131, 2)), jnp.ones((1, 1, 2, 4, 66), complex))
    'plain: the width 131 has a prime factor above 127'
    """
    reason = why_plain(x.shape[2], x.shape[3], state.shape[2], state.dtype)
    return "native: a CPU, the spectra never leave the cache" if reason is None else f"plain: {reason}"


def why_plain(height: int, width: int, channels: int, dtype: Any) -> str | None:
    """Why the compiled kernel is not picked for frames of H x W pixels and states of C channels; None where it is."""
    double = jnp.finfo(dtype).dtype == jnp.float64
    lanes = 8 if double else 16
    reason = why_not_picked(height, width, lanes, dtype)
    if reason is None and channels < FULL * lanes * blocks(channels, double):
        reason = f"{channels} channels fill less than half of their vectors of {lanes}"
    return reason


def _check(cell, x, planes, gates, statics, state) -> None:
    """Raises ShapeError: arrays that do not fit the cell."""
    count, (batch, steps, height, width, _), channels = cell.counts, x.shape, state.shape[2]
    half = (height, width // 2 + 1)
    for name, array, expected in (
        ("x", x, (batch, steps, height, width, count.inputs * channels)),
        ("planes", planes, (batch, steps, count.planes, *half)),
        ("gates", gates, (batch, steps, count.gates, channels)),
        ("statics", statics, (count.statics, channels, *half)),
        ("state", state, (batch, count.states, channels, *half)),
    ):
        if array.shape != expected:
            raise ShapeError(f"cell_scan: {name} has shape {array.shape}, expected {expected}")
