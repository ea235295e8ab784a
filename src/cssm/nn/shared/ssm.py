"""What the state-space mixers share: diagonal modes walked frame by frame, in values that XLA keeps in cache.

S_t = exp(z) S_{t-1} + write(x_t), y_t = read(S_t, x_t), with write and read linear: all readouts are then linear in the
states, `mean` needs one read, and a repeated frame has a closed form. Complex numbers are carried as (real, imaginary).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.ops.s4.diagonal import expm1
from cssm.ops.scan.geometric import geometric

from .wide import wide


class Modes(NamedTuple):
    """log_transition z (P,) complex, Re z < 0; write: x (..., C) -> (re, im) of (..., P); read: those and x -> y."""

    log_transition: Any
    write: Callable
    read: Callable


def step(modes: Modes, state, x, dt=None):
    """One frame: the complex state (B, H, W, P) after it, and y; dt (B,) or None."""
    after = _advance(modes, x.dtype, _pair(state), wide(x), dt)
    return lax.complex(*after), modes.read(after, wide(x)).astype(x.dtype)


def scan(modes: Modes, state, x, *, reset=None, readout="all", dt=None):
    """A clip from the complex state (B, H, W, P): the state after it, and y for a readout."""
    advance = lambda s, frame, span: _advance(modes, x.dtype, s, frame, span)  # noqa: E731
    after, y = scan_reads(advance, modes.read, _pair(state), x, reset=reset, readout=readout, dt=dt)
    return lax.complex(*after), y


def static(modes: Modes, state, x, steps: int, *, readout="last"):
    """A frame repeated: S_T = G_T w + e^(zT) S_0, and sum_t S_t = C_T w + e^z G_T S_0 (see ops.scan.geometric)."""
    frame, factor = wide(x), jnp.exp(modes.log_transition)
    power, total, cumulative = geometric(factor, steps)
    written = lax.complex(*modes.write(frame))
    after = total * written + power * state
    shown = after if readout == "last" else (cumulative * written + factor * total * state) / steps
    return after, modes.read(_pair(shown), frame).astype(x.dtype)


def scan_reads(advance, read, state, x, *, reset=None, readout="all", dt=None):
    """Frame by frame, for a linear read: the state after the clip x (B, T, H, W, C), and y.

    Args: advance: (state, frame, dt (B,) or None) -> state. read: (state, frame) -> y. state: a pytree, batch first.
      reset: (B, T) bool. dt: (B, T). readout: "all", "last" or "mean".
    """
    swap = lambda v: None if v is None else jnp.moveaxis(jnp.asarray(v), 1, 0)  # noqa: E731

    def body(carry, now):
        (state, total), (frame, forget, span) = carry, now
        frame = wide(frame)
        if forget is not None:
            state = jax.tree.map(lambda s: jnp.where(forget.reshape(-1, *(1,) * (s.ndim - 1)), 0, s), state)
        state = advance(state, frame, span)
        total = jax.tree.map(jnp.add, total, state) if readout == "mean" else None
        return (state, total), read(state, frame).astype(x.dtype) if readout == "all" else None

    start = (state, jax.tree.map(jnp.zeros_like, state) if readout == "mean" else None)
    (state, total), y = lax.scan(body, start, (swap(x), swap(reset), swap(dt)))
    if y is not None:
        return state, jnp.moveaxis(y, 0, 1)
    if readout == "last":
        return state, read(state, wide(x[:, -1])).astype(x.dtype)
    mean = jax.tree.map(lambda s: s / x.shape[1], total)
    return state, read(mean, wide(x).mean(1)).astype(x.dtype)


def zoh(A, log_step):
    """(z, gain) of the zero-order hold: z = dt A, and (e^z - 1) / A, by which what is written is multiplied."""
    z = jnp.exp(log_step) * A
    return z, expm1(z) / A


def matmul_modes(weight, read_weight, skip):
    """write and read of matrices: B (P, C) and C (C, P) complex, D (C,): w = B x, y = Re(C S) + D x."""

    def write(x):
        return _matmul(x, weight.real.T), _matmul(x, weight.imag.T)

    def read(state, x):
        return _matmul(state[0], read_weight.real.T) - _matmul(state[1], read_weight.imag.T) + skip * x

    return write, read


def modes_bound(log_transition, write_norm, input_bound: float) -> float:
    """max_p write_norm_p input_bound / (1 - |e^z_p|): the largest modulus of a mode, |w_p| <= write_norm_p |x|."""
    return float(input_bound * jnp.max(write_norm / -jnp.expm1(log_transition.real)))


def real(parameter: nnx.Param):
    return wide(parameter[...])


def compound(parameter: nnx.Param):
    """A parameter (2, ...) of real and imaginary parts."""
    return lax.complex(*real(parameter))


def complex_normal(key, shape, variance: float):
    """(2, *shape): real and imaginary parts of complex numbers of that mean square modulus."""
    return jax.random.normal(key, (2, *shape)) * (variance / 2) ** 0.5


def log_uniform(key, shape, low: float, high: float):
    return jax.random.uniform(key, shape, minval=jnp.log(low), maxval=jnp.log(high))


def check_steps(name: str, dt_min: float, dt_max: float) -> None:
    if not 0 < dt_min <= dt_max:
        raise UsageError(f"{name}: dt_min {dt_min}, dt_max {dt_max}: expected 0 < dt_min <= dt_max")


def check_state_size(name: str, d_state: int) -> None:
    if d_state < 2 or d_state % 2:
        raise UsageError(f"{name}: d_state is {d_state}, expected an even number of at least 2 (conjugate pairs)")


def _pair(state):
    return state.real, state.imag


def _advance(modes: Modes, dtype, state, frame, dt):
    z = modes.log_transition
    if dt is not None:
        z = wide(dt).reshape(-1, 1, 1, 1) * z
    factor, (real, imaginary), (new_real, new_imaginary) = jnp.exp(z), state, modes.write(frame)
    a, b = factor.real, factor.imag
    return a * real - b * imaginary + new_real, a * imaginary + b * real + new_imaginary


def _matmul(x, weight):
    return jnp.matmul(x, weight, precision=lax.Precision.HIGHEST)
