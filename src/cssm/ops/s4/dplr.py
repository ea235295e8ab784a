"""A diagonal-minus-low-rank state space per head (S4), discretised by the bilinear rule, over conjugate pairs.

On one half of each pair A x = lambda x - 2 p Re(p^* x): linear over the reals. Powers of A_bar are therefore real
(N, N) matrices on [Re x, Im x]; A is dissipative, so A_bar is a contraction and its powers are well conditioned.
They are kept as increments A_bar^m - I, which float32 does not round away when the steps are small.

    kernel   K[iS + j] = (C A_bar^j) (A_bar^(iS) B_bar): two Krylov blocks by log2 L matrix products, then one product.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Complex, Float
from cssm.shared.s4_options import blocks

FACTORED = 3  # how many powers are squared as diagonal + low rank: the error is that of all, the time that of none


class Dplr(NamedTuple):
    """One discretised state space per head; see `discretise`. dt is absorbed in `diagonal`, `low_rank`, `drive`."""

    diagonal: Complex[Any, "h n"]
    low_rank: Complex[Any, "r h n"]
    drive: Complex[Any, "h n"]
    C: Complex[Any, "c h n"]
    resolvent: Complex[Any, "h n"]
    inner: Float[Any, "h r r"]
    B: Complex[Any, "h n"]


def discretise(
    A: Complex[Any, "h n"], P: Complex[Any, "r h n"], B: Complex[Any, "h n"], C: Complex[Any, "c h n"],
    dt: Float[Any, "h"],
) -> Dplr:  # fmt: skip
    """dt A = diagonal - low_rank low_rank^*; resolvent and inner invert I - dt A / 2 by Woodbury's identity."""
    diagonal, low_rank, drive = dt[:, None] * A, jnp.sqrt(dt)[:, None] * P, dt[:, None] * B
    resolvent = 1 / (1 - diagonal / 2)
    inner = _einsum("rhn,hn,qhn->hrq", low_rank.conj(), resolvent, low_rank).real + jnp.eye(P.shape[0], dtype=dt.dtype)
    system = Dplr(diagonal, low_rank, drive, C, resolvent, jnp.linalg.inv(inner), drive)
    return system._replace(B=_solve(system, drive))


def step(system: Dplr, state: Complex[Any, "*lead h n"], u: Float[Any, "*lead h"]) -> Complex[Any, "*lead h n"]:
    """The state after one input u (B, H)."""
    return state + (_increment(system, state) + system.B * u[..., None])


def read(system: Dplr, state: Complex[Any, "b h n"]) -> Float[Any, "b c h"]:
    """y (B, C, H) = 2 Re(C x)."""
    return 2 * _einsum("chn,bhn->bch", system.C, state).real


def plan(system: Dplr, length: int) -> list:
    """A_bar^m - I for m = 1, 2, 4, ... <= length, each (H, N, N), acting on column vectors [Re x, Im x].

    Every squaring doubles the rounding errors made so far. The first powers are therefore kept as diagonal + U^T V, as
    (a + U^T V)^2 = a^2 + (A U)^T V + U^T (a^T V): there is no cancellation near a = -1, where the stiff modes are.
    """
    a = system.diagonal * system.resolvent
    left = to_real(-2 * system.resolvent * _einsum("hrq,rhn->qhn", system.inner, system.low_rank)).swapaxes(0, 1)
    right = to_real(system.low_rank * system.resolvent.conj()).swapaxes(0, 1)  # h r N
    matrices = []
    while len(matrices) < length.bit_length():
        if len(matrices) >= FACTORED:
            matrices.append(2 * matrices[-1] + _einsum("hij,hjk->hik", matrices[-1], matrices[-1]))
            continue
        matrices.append(diagonal_matrix(a) + _einsum("hki,hkj->hij", left, right))
        gain = 1 + a[:, None]
        moved = to_real(gain * to_complex(left)) + _einsum("hki,hqi,hqj->hkj", left, right, left)
        left = jnp.concatenate([moved, left], 1)
        right = jnp.concatenate([right, to_real(gain.conj() * to_complex(right))], 1)
        a = a * (2 + a)
    return matrices


def kernel(system: Dplr, plan: list, length: int) -> Float[Any, "c h l"]:
    """K (C, H, L): with l = iS + j, K = (C A^j) (A^(iS) B), a product of two Krylov blocks per head."""
    count, size = blocks(length)
    columns = krylov(to_real(system.B)[:, None], plan[size.bit_length() - 1 :], count)
    taps = _einsum("chjn,hin->chij", output_rows(system, plan, size), columns)
    return taps.reshape(*taps.shape[:-2], -1)[..., :length]


def response(system: Dplr, plan: list, state: Complex[Any, "b h n"], length: int) -> Float[Any, "b c h l"]:
    """(B, C, H, L): what the state (B, H, n) before the first step adds to the output of each step."""
    count, size = blocks(length)
    first = to_real(state + _increment(system, state))
    columns = krylov(first[..., None, :], plan[size.bit_length() - 1 :], count)
    taps = _einsum("chjn,bhin->bchij", output_rows(system, plan, size), columns)
    return taps.reshape(*taps.shape[:-2], -1)[..., :length]


def absorb(system: Dplr, plan: list, state: Complex[Any, "b h n"], u: Float[Any, "b h l"]) -> Complex[Any, "b h n"]:
    """The state (B, H, n) after the inputs u (B, H, L): inside blocks by one matrix product, then pairs of blocks."""
    *outer, length = u.shape
    count, size = blocks(length)
    u = jnp.pad(u, ((0, 0), (0, 0), (count * size - length, 0))).reshape(*outer, count, size)
    columns = krylov(to_real(system.B)[:, None], plan, size)[:, ::-1]
    ends = _einsum("bhij,hjn->bhin", u, columns)
    for matrix in plan[size.bit_length() - 1 :]:
        if ends.shape[-2] == 1:
            break
        ends = jnp.pad(ends, ((0, 0), (0, 0), (ends.shape[-2] % 2, 0), (0, 0)))
        early, late = ends[..., 0::2, :], ends[..., 1::2, :]
        ends = late + early + _einsum("hij,bhkj->bhki", matrix, early)
    return to_complex(advance(to_real(state), plan, length) + ends[..., 0, :])


def advance(vector: Float[Any, "*lead h n"], plan: list, steps: int) -> Float[Any, "*lead h n"]:
    """A_bar^steps applied to real states (..., H, N), by the bits of steps."""
    for bit, matrix in enumerate(plan):
        if steps >> bit & 1:
            vector = vector + _einsum("hij,...hj->...hi", matrix, vector)
    return vector


def output_rows(system: Dplr, plan: list, count: int) -> Float[Any, "c h l n"]:
    """(C, H, count, N): C A_bar^j as real rows acting on [Re x, Im x]."""
    rows = 2 * to_real(system.C.conj())[..., None, :]
    return krylov(rows, [_transpose(matrix) for matrix in plan], count)


def to_real(x: Complex[Any, "..."]) -> Float[Any, "..."]:
    return jnp.concatenate([x.real, x.imag], -1)


def to_complex(x: Float[Any, "..."]) -> Complex[Any, "..."]:
    return lax.complex(*jnp.split(x, 2, -1))


def diagonal_matrix(a):
    """(H, N, N): the product with a (H, n) as a real matrix on [Re x, Im x]."""
    blocks = jnp.stack([jnp.stack([a.real, -a.imag], 1), jnp.stack([a.imag, a.real], 1)], 1)  # h 2 2 n
    dense = blocks.swapaxes(2, 3)[..., None] * jnp.eye(a.shape[-1], dtype=blocks.dtype)[:, None]
    return dense.reshape(a.shape[0], 2 * a.shape[-1], 2 * a.shape[-1])


def _transpose(matrix):
    return jnp.swapaxes(matrix, -1, -2)


def krylov(vectors, matrices: list, count: int):
    """v, M v, M^2 v, ..., `count` of them along axis -2, from the increments of M, M^2, M^4, ..."""
    for matrix in matrices:
        if vectors.shape[-2] >= count:
            break
        vectors = jnp.concatenate([vectors, vectors + _einsum("hij,...hkj->...hki", matrix, vectors)], -2)
    return vectors[..., :count, :]


def _increment(system: Dplr, x):
    """(A_bar - I) x = (I - dt A / 2)^-1 dt A x for complex states (..., H, n)."""
    projected = _einsum("rhn,...hn->...hr", system.low_rank.conj(), x).real
    return _solve(system, system.diagonal * x - 2 * _einsum("...hr,rhn->...hn", projected, system.low_rank))


def _solve(system: Dplr, x):
    """(I - dt A / 2)^-1 x."""
    x = system.resolvent * x
    projected = _einsum("rhn,...hn->...hr", system.low_rank.conj(), x).real
    weights = _einsum("hrq,...hq->...hr", system.inner, projected)
    return x - system.resolvent * _einsum("...hr,rhn->...hn", weights, system.low_rank)


def _einsum(equation: str, *arrays):
    return jnp.einsum(equation, *arrays, precision=lax.Precision.HIGHEST)
