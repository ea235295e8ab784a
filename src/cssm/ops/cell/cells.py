"""The cells, one frame of spectra at a time: the equations of README.md."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from cssm.shared.cell import CONVOLUTION, DELTA, GATED, OPPONENT, SYSTEM, Counts, counts

from ..delta.sequential import advance as delta_advance
from ..delta.sequential import apply

EPSILON = 1e-9  # of |k|^2, relative to the H W of a spectrum of unit variance


@dataclass(frozen=True)
class Cell:
    """What happens to a frame's spectra.

    advance(statics, states, inputs, planes, gates, constants) -> (states, outputs): statics (K, C, H, Wf), states (B,
    S, C, H, Wf), inputs (B, I, C, H, Wf), planes (B, P, H, Wf), gates (B, A, C), outputs (B, O, C, H, Wf).
    """

    kind: int
    advance: Callable[..., tuple[Any, Any]]
    constants: tuple[float, ...] = ()
    """Numbers of the equations; of the delta rule those of H W = 1, see `constants_of`."""
    width: int = 1
    """Channels per head, of the delta rule."""

    @property
    def counts(self) -> Counts:
        return counts(self.kind, self.width)

    def constants_of(self, height: int, width: int) -> tuple[float, ...]:
        """For frames of H x W pixels."""
        if self.kind != DELTA:
            return self.constants
        return EPSILON * height * width, (height * width) ** -0.5


def gated() -> Cell:
    """S <- decay K S + write X, Y = read S. Planes: decay, write, read."""
    return Cell(GATED, _gated)


def opponent(rho: float) -> Cell:
    """Excitation X and inhibition Y, each row of the transition scaled to sum to at most rho.

    Statics: K_I, K_E and |K_I| + i |K_E|. Planes: excite, inhibit, to excitation, to inhibition, write. Gates: decay.
    """
    return Cell(OPPONENT, _opponent, (1 / rho,))


def delta(width: int) -> Cell:
    """The gated delta rule on `width` channels of q, k, v per head; k is scaled to norm 1. Statics: the gain W. Gates:
    alpha, beta. Lanes are heads; inputs q_0 .., k_0 .., v_0 ..; states S_00, S_01, ..."""
    return Cell(DELTA, _delta, width=width)


def convolution() -> Cell:
    """Y = K X: no state, every frame on its own."""
    return Cell(CONVOLUTION, _convolution)


def system() -> Cell:
    """S <- A S + B X, Y = S. Statics: A, B."""
    return Cell(SYSTEM, _system)


def _system(statics, states, inputs, planes, gates, constants):
    states = statics[:1] * states + statics[1:] * inputs
    return states, states


def _convolution(statics, states, inputs, planes, gates, constants):
    return states, statics * inputs


def _gated(statics, states, inputs, planes, gates, constants):
    decay, write, read = (planes[:, i, None, None] for i in range(3))
    states = statics[:1] * (decay * states) + write * inputs
    return states, read * states


def _opponent(statics, states, inputs, planes, gates, constants):
    excite, inhibit, into_x, into_y, write = (planes[:, i, None] for i in range(5))
    decay, (to_inhibition, to_excitation, moduli), over = gates[:, 0, :, None, None], statics, constants[0]
    excite, inhibit = decay * excite, decay * inhibit
    first = 1 / jnp.maximum(1, (excite + moduli.real * into_x) * over)
    second = 1 / jnp.maximum(1, (inhibit + moduli.imag * into_y) * over)
    x, y = states[:, 0], states[:, 1]
    # couplings as in the docstring of nn/mixers/opponent.py: Y reaches X through K_I, X reaches Y through K_E
    after = (
        first * (excite * x - into_x * to_inhibition * y) + write * inputs[:, 0],
        second * (into_y * to_excitation * x + inhibit * y),
    )
    states = jnp.stack(after, 1)
    return states, states


def _delta(statics, states, inputs, planes, gates, constants):
    few = round(states.shape[1] ** 0.5)
    q, k, v = (jnp.moveaxis(inputs[:, i * few : (i + 1) * few], 1, 2) for i in range(3))  # b n d h wf
    flat = lambda a: a.reshape(*a.shape[:-2], -1)  # noqa: E731
    q, k, v, gain = flat(q), flat(k), flat(v), flat(statics[0])
    norm = jnp.square(k.real) + jnp.square(k.imag)
    q, k = q * constants[1], k * lax.rsqrt(norm.sum(2, keepdims=True) + constants[0])
    memory = jnp.moveaxis(flat(states), 1, 2).reshape(*k.shape[:2], few, *k.shape[2:])
    decay, beta = gates[:, 0, :, None, None] * gain[:, None], gates[:, 1, :, None, None]
    memory = delta_advance(memory, k, v, decay, beta)[0]
    out = jnp.moveaxis(apply(memory, q), 2, 1)
    memory = jnp.moveaxis(memory.reshape(*k.shape[:2], few * few, -1), 2, 1)
    return memory.reshape(states.shape), out.reshape(*out.shape[:-1], *states.shape[-2:])
