"""A diagonal state space per head (S4D), over conjugate pairs: x_t = A_bar x_{t-1} + B_bar u_t, y_t = 2 Re(C x_t).

A_bar is kept as its increment A_bar - 1: with small steps A_bar is close to 1, and float32 would round away what
separates them. Powers come from a table of square-root length twice over, so nothing of size (C, H, n, L) exists.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Complex, Float
from cssm.shared.s4_options import blocks


class Diagonal(NamedTuple):
    """One discretised state space per head; see `discretise`."""

    increment: Complex[Any, "h n"]
    B: Complex[Any, "h n"]
    C: Complex[Any, "c h n"]


class Plan(NamedTuple):
    """A_bar^j for j < S, A_bar^(iS) for i <= I, and A_bar^L - 1, where S I >= L."""

    fine: Complex[Any, "h n s"]
    coarse: Complex[Any, "h n i"]
    last: Complex[Any, "h n"]


def discretise(
    A: Complex[Any, "h n"], B: Complex[Any, "h n"], C: Complex[Any, "c h n"], dt: Float[Any, "h"], disc: str
) -> Diagonal:
    """zoh: A_bar = e^z, B_bar = (A_bar - 1) / A B, with z = dt A.

    bilinear: A_bar = (1 + z/2) / (1 - z/2), B_bar = dt B / (1 - z/2).
    """
    z = dt[:, None] * A
    if disc == "bilinear":
        resolvent = 1 / (1 - z / 2)
        return Diagonal(z * resolvent, dt[:, None] * B * resolvent, C)
    increment = expm1(z)
    still = z == 0
    gain = jnp.where(still, 1, increment / jnp.where(still, 1, z))
    return Diagonal(increment, dt[:, None] * gain * B, C)


def expm1(z: Complex[Any, "..."]) -> Complex[Any, "..."]:
    """e^z - 1 for complex z, without cancellation: e^x cos y - 1 = expm1(x) cos y - 2 sin(y/2)^2."""
    x, y = z.real, z.imag
    return lax.complex(jnp.expm1(x) * jnp.cos(y) - 2 * jnp.sin(y / 2) ** 2, jnp.exp(x) * jnp.sin(y))


def plan(system: Diagonal, length: int) -> Plan:
    count, size = blocks(length)
    fine, stride = powers(system.increment, size)
    return Plan(1 + fine, 1 + powers(stride, count)[0], power(system.increment, length))


def kernel(system: Diagonal, plan: Plan, length: int) -> Float[Any, "c h l"]:
    """K (C, H, L): K[c, h, l] = 2 Re sum_n C B_bar A_bar^l."""
    return _vandermonde(system.C * system.B, plan, length)


def response(system: Diagonal, plan: Plan, state: Complex[Any, "b h n"], length: int) -> Float[Any, "b c h l"]:
    """(B, C, H, L): what the state (B, H, n) before the first step adds to the output of each step."""
    return _vandermonde(system.C * (state + system.increment * state)[:, None], plan, length)


def absorb(system: Diagonal, plan: Plan, state: Complex[Any, "b h n"], u: Float[Any, "b h l"]) -> Complex[Any, "b h n"]:
    """The state (B, H, n) after the inputs u (B, H, L)."""
    *outer, length = u.shape
    count, size = blocks(length)
    u = jnp.pad(u, ((0, 0), (0, 0), (count * size - length, 0))).reshape(*outer, count, size)
    fine = plan.fine[..., ::-1]
    within = lax.complex(_einsum("bhij,hnj->bhin", u, fine.real), _einsum("bhij,hnj->bhin", u, fine.imag))
    total = jnp.einsum("bhin,hni->bhn", within, plan.coarse[..., count - 1 :: -1], precision=lax.Precision.HIGHEST)
    return state + plan.last * state + system.B * total


def step(system: Diagonal, state: Complex[Any, "*lead h n"], u: Float[Any, "*lead h"]) -> Complex[Any, "*lead h n"]:
    """The state after one input u (B, H)."""
    return state + (system.increment * state + system.B * u[..., None])


def read(system: Diagonal, state: Complex[Any, "b h n"]) -> Float[Any, "b c h"]:
    """y (B, C, H) = 2 Re(C x)."""
    return 2 * jnp.einsum("chn,bhn->bch", system.C, state, precision=lax.Precision.HIGHEST).real


def powers(increment, count: int):
    """A^0 - 1, ..., A^(count-1) - 1 along a new last axis, and A^m - 1 for the power of two m >= count."""
    table, stride = jnp.zeros_like(increment)[..., None], increment
    while table.shape[-1] < count:
        table = jnp.concatenate([table, table + stride[..., None] * (1 + table)], -1)
        stride = stride * (2 + stride)
    return table[..., :count], stride


def power(increment: Complex[Any, "..."], exponent: int) -> Complex[Any, "..."]:
    """A^exponent - 1 from A - 1, by the bits of the exponent."""
    total = jnp.zeros_like(increment)
    for bit in range(exponent.bit_length()):
        if exponent >> bit & 1:
            total = total + increment * (1 + total)
        increment = increment * (2 + increment)
    return total


def _vandermonde(weights, plan: Plan, length: int):
    """2 Re sum_n weights[..., h, n] A^l for l < length: per head, two real matrix products of (i, n) and (n, j)."""
    rows = 2 * weights[..., None] * plan.coarse  # ... h n i
    pairs = (rows.real, plan.fine.real), (rows.imag, plan.fine.imag)
    real, imaginary = (_einsum("...hni,hnj->...hij", row, column) for row, column in pairs)
    return (real - imaginary).reshape(*weights.shape[:-1], -1)[..., :length]


def _einsum(equation: str, *arrays):
    return jnp.einsum(equation, *arrays, precision=lax.Precision.HIGHEST)
