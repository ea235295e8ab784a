"""A chunk of L steps of a state space as matrices: outputs and last state from the inputs and the first state.

    y_t = sum_{s <= t} taps[t - s] u_s + rows[t] x_0,     x_L = A^L x_0 + sum_s columns[s] u_s

on real states [Re x, Im x], for one output per head. For short chunks: the work per step and head is L + 2N.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Float

from . import diagonal, dplr


class Chunk(NamedTuple):
    """N = 2n: real and imaginary parts of one half of each conjugate pair; power is A^L."""

    taps: Float[Any, "h l"]
    rows: Float[Any, "h l d"]
    columns: Float[Any, "h l d"]
    power: Float[Any, "h d d"]


def chunk(system: diagonal.Diagonal | dplr.Dplr, length: int) -> Chunk:
    """The matrices of `length` steps; system: what `diagonal.discretise` or `dplr.discretise` gave, with one C."""
    is_diagonal = isinstance(system, diagonal.Diagonal)
    outputs, columns, power = _of_diagonal(system, length) if is_diagonal else _of_dplr(system, length)
    taps = _einsum("hld,hd->hl", outputs[:, :-1], columns[:, 0])
    return Chunk(taps, outputs[:, 1:], columns[:, ::-1], power)


def matrix(system: diagonal.Diagonal | dplr.Dplr) -> tuple[Float[Any, "h n n"], Float[Any, "h n"], Float[Any, "h n"]]:
    """A_bar - I (H, N, N), B_bar (H, N) and C (H, N): x <- x + (A_bar - I) x + B_bar u, y = C x, on real states."""
    if isinstance(system, diagonal.Diagonal):
        increment = dplr.diagonal_matrix(system.increment)
    else:
        increment = dplr.plan(system, 1)[0]
    return increment, dplr.to_real(system.B), 2 * dplr.to_real(system.C[0].conj())


def toeplitz(taps: Float[Any, "h l"]) -> Float[Any, "h l l"]:
    """(H, L) -> (H, L, L): [t, s] holds taps[t - s], and 0 above the diagonal."""
    return two_sided(taps, jnp.zeros_like(taps))


def two_sided(causal: Float[Any, "h l"], anticausal: Float[Any, "h l"]) -> Float[Any, "h l l"]:
    """(H, L), (H, L) -> (H, L, L): causal[t - s] below the diagonal, anticausal[s - t] above, their sum on it.

    Row t is row 0 rotated by t: rows of 2L - 1 cut from one sequence of period 2L. No gather, hence no scatter.
    """
    heads, length = causal.shape
    first = causal[:, :1] + anticausal[:, :1]
    period = jnp.concatenate([first, anticausal[:, 1:], jnp.zeros_like(first), causal[:, :0:-1]], 1)
    flat = jnp.tile(period, (1, length))[:, : length * (2 * length - 1)]
    return flat.reshape(heads, length, 2 * length - 1)[..., :length]


def _of_diagonal(system: diagonal.Diagonal, length: int):
    table = (1 + diagonal.powers(system.increment, length + 1)[0]).swapaxes(1, 2)  # h l n
    outputs = 2 * dplr.to_real((system.C[0][:, None] * table).conj())
    return (
        outputs,
        dplr.to_real(system.B[:, None] * table[:, :-1]),
        dplr.diagonal_matrix(table[:, -1] - 1) + _eye(system),
    )


def _of_dplr(system: dplr.Dplr, length: int):
    plan = dplr.plan(system, length)
    columns = dplr.krylov(dplr.to_real(system.B)[:, None], plan, length)
    eye = jnp.broadcast_to(_eye(system)[:, None], (plan[0].shape[-1], plan[0].shape[0], plan[0].shape[-1]))
    power = jnp.moveaxis(dplr.advance(eye, plan, length), 0, -1)
    return dplr.output_rows(system, plan, length + 1)[0], columns, power


def _eye(system):
    return jnp.eye(2 * system.B.shape[-1], dtype=system.B.real.dtype)


def _einsum(equation: str, *arrays):
    return jnp.einsum(equation, *arrays, precision=lax.Precision.HIGHEST)
