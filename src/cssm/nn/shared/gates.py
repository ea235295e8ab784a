"""Gates from a context vector, factored over rows and columns of the grid: (B, T, C) -> (B, T, H) and (B, T, Wf).

A dense layer maps the context to values on a reference grid, which are interpolated to any (H, W): in frequency (cycles
per pixel, 0 to 1/2) for gates on a half spectrum, in relative position for gates on pixels. A gate per frequency is
real and equal for rows u and -u, so that it keeps the field real. Source: docs/math.md section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Grid

from ..parts.dense import Dense
from .bounds import dense_bound
from .wide import wide

DOMAINS = ("frequency", "space")
UNITS = 1 << 16  # of a turn: whole numbers of them add up exactly


class FactoredGates(nnx.Module):
    """Logits of several gates, each one value per row and one per column; the mixer squashes and multiplies them.

    Args:
      channels: size C of the context. offsets: name of every gate -> its initial bias, in rows and columns alike.
      knots: values per axis of the reference grid; 17 are the non-negative frequencies of 32 pixels.
      domain: "frequency": rows (..., H), columns (..., W // 2 + 1) of a half spectrum; "space": (..., H), (..., W).

    Raises:
      UsageError: fewer than 2 knots, or an unknown domain.

    >>> from flax import nnx
    >>> gates = FactoredGates(4, {"decay": 0.0}, rngs=nnx.Rngs(0))
    >>> rows, columns = gates(jnp.ones((2, 4)), (6, 9))["decay"]
    >>> rows.shape, columns.shape, bool(rows[0, 1] == rows[0, 5])
    ((2, 6), (2, 5), True)
    """

    def __init__(
        self, channels: int, offsets: Mapping[str, float], *, knots: int = 17, domain: str = "frequency",
        rngs: nnx.Rngs,
    ):  # fmt: skip
        if knots < 2:
            raise UsageError(f"gates: knots is {knots}, expected at least 2 values per axis of the reference grid")
        if domain not in DOMAINS:
            raise UsageError(f"gates: unknown domain {domain!r}, use {' or '.join(DOMAINS)}")
        self.names, self.knots, self.domain = tuple(offsets), knots, domain
        bias = np.repeat(np.array([*offsets.values()], np.float32), 2 * knots)
        self.dense = Dense(channels, len(bias), bias_init=lambda *_: jnp.asarray(bias), rngs=rngs)

    def __call__(self, context, grid: Grid) -> dict[str, tuple[jax.Array, jax.Array]]:
        """Context (..., C) -> per gate the logits of rows (..., H) and columns (..., Wf or W), at least float32."""
        values = self.dense(context)
        values = wide(values)
        values = values.reshape(*context.shape[:-1], len(self.names), 2, self.knots)
        rows, columns = interpolation(grid, self.knots, self.domain)
        rows, columns = values[..., 0, :] @ rows, values[..., 1, :] @ columns  # ... gate axis
        return {name: (rows[..., i, :], columns[..., i, :]) for i, name in enumerate(self.names)}

    def bound(self, context_bound) -> dict[str, float]:
        """Per gate the largest |logit|, on any grid: interpolation is a convex combination of the reference values."""
        limits = dense_bound(self.dense, context_bound).reshape(len(self.names), -1).max(-1)
        return dict(zip(self.names, map(float, limits), strict=True))


def interpolation(grid: Grid, knots: int, domain: str) -> tuple[np.ndarray, np.ndarray]:
    """(knots, H) and (knots, Wf or W): weights of linear interpolation from the reference values to the grid."""
    height, width = grid
    if domain == "space":
        rows, columns = ((np.arange(size) + 0.5) / size for size in grid)
        return _hats(rows, knots), _hats(columns, knots)
    rows, columns = np.arange(height), np.arange(width // 2 + 1)
    return _hats(2 * np.minimum(rows, height - rows) / height, knots), _hats(2 * columns / width, knots)


def _hats(place, knots: int) -> np.ndarray:
    """Hat functions of knots spread evenly over [0, 1] at those places."""
    return np.maximum(0, 1 - np.abs(place * (knots - 1) - np.arange(knots)[:, None])).astype(np.float32)


def over_columns(factor):
    """A row factor (..., H) as (..., H, 1), to meet a column factor."""
    return factor[..., :, None]


def over_rows(factor):
    """A column factor (..., Wf) as (..., 1, Wf)."""
    return factor[..., None, :]


def outer(rows, columns):
    """(..., H), (..., Wf) -> (..., H, Wf): the gate of every frequency, for all channels."""
    return over_columns(rows) * over_rows(columns)


@dataclass(frozen=True)
class Clock:
    """A sinusoidal embedding of the frame index since the last reset, for streams of any length.

    The state is the phase of every sinusoid, in turns: frequencies are whole multiples of 2^-16 turn per frame, so that
    phases add up exactly, and the longest period is 65,536 frames. No gradient passes through time.

    >>> clock = Clock(4)
    >>> turns, angles = clock.scan(clock.init_state(1), 3)
    >>> clock.embed(angles).shape, bool((turns == clock.step(clock.step(clock.step(clock.init_state(1))))).all())
    ((1, 3, 4), True)
    """

    channels: int

    @property
    def units(self) -> np.ndarray:
        """Every sinusoid's units of phase per frame."""
        pairs = -(-self.channels // 2)
        turns = 10000.0 ** (-np.arange(pairs) / pairs) / (2 * np.pi)
        return np.maximum(np.round(turns * UNITS), 1).astype(np.int32)

    def init_state(self, batch: int):
        return jnp.zeros((batch, len(self.units)), jnp.float32)

    def step(self, turns):
        """The phases one frame later."""
        return self._after(turns, jnp.ones((), jnp.int32))

    def scan(self, turns, steps: int, reset=None):
        """Phases after the last of `steps` frames, and (B, T, pairs) those of every frame; 0 at a reset."""
        frame = jnp.arange(steps)
        if reset is None:
            shown = self._after(turns[:, None], frame[:, None])
        else:
            last = lax.cummax(jnp.where(reset, frame, -1), axis=1)[..., None]  # b t 1, the latest reset so far
            since = jnp.where(last < 0, frame[:, None], frame[:, None] - last)
            shown = self._after(jnp.where(last < 0, turns[:, None], 0), since)
        return self.step(shown[:, -1]), shown

    def embed(self, turns):
        """(..., pairs) phases -> (..., C): sines and cosines."""
        angles = 2 * np.pi * lax.stop_gradient(turns)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)[..., : self.channels]

    def _after(self, turns, frames):
        start = jnp.round(lax.stop_gradient(turns) * UNITS).astype(jnp.int32)
        units = (start + frames * self.units) & (UNITS - 1)  # exact, however large the product
        return units.astype(jnp.float32) / UNITS
