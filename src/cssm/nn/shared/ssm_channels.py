"""One real state space per channel over time (`s4`, `s4d`): chunks of frames as matrix products, channel by channel.

States are (B, C, N, H, W) float32: real parts of N / 2 modes, then imaginary parts. A chunk of up to CHUNK frames costs
CHUNK + 2N products per value, as ops.s4.unrolled says; only the states between chunks are kept for the gradient.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from cssm.ops.s4 import diagonal, unrolled

from . import ssm
from .wide import wide

CHUNK = 64


class Step(NamedTuple):
    """x <- x + increment x + drive u, y = output x + skip u, on real states; factor (C, n) is A_bar where diagonal."""

    increment: Any
    drive: Any
    output: Any
    skip: Any
    factor: Any = None


def one_step(system, skip) -> Step:
    factor = 1 + system.increment if isinstance(system, diagonal.Diagonal) else None
    return Step(*unrolled.matrix(system), skip, factor)


def advance(step: Step, state, frame, factor=None):
    """The state after a frame (B, H, W, C); factor (B, C, n) complex in place of the step's own."""
    written = step.drive[:, :, None, None] * jnp.moveaxis(frame, -1, 1)[:, :, None]
    factor = step.factor if factor is None else factor
    if factor is None:
        return state + (_einsum("cij,bcjhw->bcihw", step.increment, state) + written)
    a, b = factor.real[..., None, None], factor.imag[..., None, None]
    real, imaginary = jnp.split(state, 2, 2)
    return jnp.concatenate([a * real - b * imaginary, a * imaginary + b * real], 2) + written


def read(step: Step, state, frame):
    """C x + D u, (B, H, W, C)."""
    return _einsum("cn,bcnhw->bhwc", step.output, state) + step.skip * frame


def scan(system, skip, state, x, *, readout="all"):
    """The state after a clip (B, T, H, W, C), and C x + D u for all frames or the last one."""
    frames = wide(x)
    batch, steps, height, width, channels = x.shape
    u = frames.reshape(batch, steps, -1, channels).transpose(3, 1, 0, 2).reshape(channels, steps, -1)  # c t bp
    s = state.reshape(batch, channels, -1, height * width).transpose(1, 2, 0, 3).reshape(channels, state.shape[2], -1)
    s, y = _chunks(system, s, u, readout == "all")
    unflat = lambda v: v.reshape(*v.shape[:2], batch, height, width)  # noqa: E731
    after = unflat(s).transpose(2, 0, 1, 3, 4)
    if readout == "last":
        return after, read(one_step(system, skip), after, frames[:, -1])
    return after, unflat(y).transpose(2, 1, 3, 4, 0) + skip * frames


def _chunks(system, s, u, outputs: bool):
    """States (C, N, P) and inputs (C, T, P): the first T mod CHUNK frames, then whole chunks."""
    channels, steps, pixels = u.shape
    pieces: list[Any] = []
    size = min(CHUNK, steps)
    first = steps % size
    if first:
        s, y = _apply(unrolled.chunk(system, first), s, u[:, :first], outputs)
        pieces.append(y)
    matrices = unrolled.chunk(system, size)
    whole = jnp.moveaxis(u[:, first:].reshape(channels, -1, size, pixels), 1, 0)
    s, y = lax.scan(lambda s, u: _apply(matrices, s, u, outputs), s, whole)
    if outputs and y is not None:
        pieces.append(jnp.moveaxis(y, 0, 1).reshape(channels, -1, pixels))
    return s, jnp.concatenate(pieces, 1) if outputs else None


def _apply(chunk, s, u, outputs: bool):
    y = None
    if outputs:
        y = _einsum("cts,csp->ctp", unrolled.toeplitz(chunk.taps), u) + _einsum("ctn,cnp->ctp", chunk.rows, s)
    return _einsum("cij,cjp->cip", chunk.power, s) + _einsum("csn,csp->cnp", chunk.columns, u), y


def static(system, state, x, steps: int):
    """The state after a frame repeated: A^T s + (1 + A + ... + A^(T-1)) B u, by doubling of N x N matrices."""
    increment, drive, _ = unrolled.matrix(system)
    eye = jnp.broadcast_to(jnp.eye(drive.shape[-1]), increment.shape)
    once, power, total = eye + increment, eye, jnp.zeros_like(increment)
    for bit in bin(steps)[2:]:
        total, power = total + power @ total, power @ power
        if bit == "1":
            total, power = eye + once @ total, once @ power
    written = _einsum("cij,cj->ci", total, drive)[:, :, None, None] * jnp.moveaxis(x, -1, 1)[:, :, None]
    return _einsum("cij,bcjhw->bcihw", power, state) + written


def bound(system, input_bound: float, steps: int = 64) -> float:
    """max over channels of sum_{j < J} |A^j B| / (1 - |A^J|), in 2-norms: the geometric series of blocks of J steps."""
    increment, vector, _ = (np.asarray(v, np.float64) for v in unrolled.matrix(system))
    once, total = np.eye(vector.shape[-1]) + increment, 0.0
    for _ in range(steps):
        total = total + np.linalg.norm(vector, axis=-1)
        vector = np.einsum("cij,cj->ci", once, vector)
    left = 1 - np.linalg.norm(np.linalg.matrix_power(once, steps), 2, (-2, -1))
    return float(input_bound * np.max(np.where(left > 0, total / np.maximum(left, 1e-30), np.inf)))


def scan_stepwise(system, skip, state, x, *, reset, readout, dt=None, log_transition: Any = None):
    """`scan` frame by frame, where frames differ: resets, or steps dt (B, T) with transition exp(dt log_transition)."""
    step = one_step(system, skip)

    def one(state, frame, span):
        factor = None if span is None else irregular(span, log_transition)
        return advance(step, state, frame, factor)

    options = {"reset": reset, "readout": readout, "dt": dt}
    return ssm.scan_reads(one, lambda state, frame: read(step, state, frame), state, x, **options)


def irregular(dt, log_transition):
    """exp(dt z), (B, C, n), of steps dt (B,)."""
    return jnp.exp(wide(jnp.asarray(dt))[:, None, None] * log_transition)


def _einsum(equation: str, *arrays):
    return jnp.einsum(equation, *arrays, precision=lax.Precision.HIGHEST)
