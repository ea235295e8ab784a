"""S4 in PyTorch: the twin of cssm.ops.s4.dplr; the maths is in cssm/ops/s4/README.md."""

from typing import NamedTuple

import torch
from torch import Tensor

from cssm.shared.s4_options import blocks

FACTORED = 3  # how many powers are squared as diagonal + low rank


class Dplr(NamedTuple):
    """dt A = diagonal (H, n) - low_rank low_rank^* (r, H, n); drive = dt B; resolvent, inner (H, r, r): I - dt A/2."""

    diagonal: Tensor
    low_rank: Tensor
    drive: Tensor
    C: Tensor
    resolvent: Tensor
    inner: Tensor
    B: Tensor


def discretise(A: Tensor, P: Tensor, B: Tensor, C: Tensor, dt: Tensor) -> Dplr:
    diagonal, low_rank, drive = dt[:, None] * A, torch.sqrt(dt)[:, None] * P, dt[:, None] * B
    resolvent = 1 / (1 - diagonal / 2)
    inner = torch.einsum("rhn,qhn->hrq", low_rank.conj() * resolvent, low_rank).real
    inner = torch.linalg.inv(inner + torch.eye(len(P), dtype=dt.dtype, device=dt.device))
    system = Dplr(diagonal, low_rank, drive, C, resolvent, inner, drive)
    return system._replace(B=_solve(system, drive))


def matrices(system: Dplr) -> tuple[Tensor, Tensor, Tensor]:
    """A_bar (H, 2n, 2n), B_bar (H, 2n), C (C, H, 2n) on [x, conj x], complex: x' = A_bar x + B_bar u, y = Re(C x)."""
    diagonal, low_rank, drive, C = (
        _with_conjugate(part) for part in (system.diagonal, system.low_rank, system.drive, system.C)
    )
    half = (torch.diag_embed(diagonal) - torch.einsum("rhm,rhn->hmn", low_rank, low_rank.conj())) / 2  # dt A / 2
    identity = torch.eye(half.shape[-1], dtype=half.dtype, device=half.device)
    solved = torch.linalg.solve(identity - half, torch.cat([identity + half, drive[..., None]], -1))
    return solved[..., :-1], solved[..., -1], C


def step(system: Dplr, state: Tensor, u: Tensor) -> Tensor:
    """The state after one input u (B, H)."""
    return state + (_increment(system, state) + system.B * u[..., None])


def read(system: Dplr, state: Tensor) -> Tensor:
    """y (B, C, H) = 2 Re(C x)."""
    return 2 * torch.einsum("chn,bhn->bch", system.C, state).real


def plan(system: Dplr, length: int) -> list:
    """A_bar^m - I for m = 1, 2, 4, ... <= length, each (H, N, N), acting on column vectors [Re x, Im x]."""
    a = system.diagonal * system.resolvent
    left = to_real(-2 * system.resolvent * _combine(system.inner, system.low_rank)).transpose(0, 1)
    right = to_real(system.low_rank * system.resolvent.conj()).transpose(0, 1)  # h r N
    matrices = []
    while len(matrices) < length.bit_length():
        if len(matrices) >= FACTORED:
            matrices.append(2 * matrices[-1] + matrices[-1] @ matrices[-1])
            continue
        matrices.append(_diagonal_matrix(a) + left.mT @ right)
        gain = 1 + a[:, None]
        moved = to_real(gain * to_complex(left)) + (left @ right.mT) @ left
        left = torch.cat([moved, left], 1)
        right = torch.cat([right, to_real(gain.conj() * to_complex(right))], 1)
        a = a * (2 + a)
    return matrices


def kernel(system: Dplr, plan: list, length: int) -> Tensor:
    """K (C, H, L)."""
    count, size = blocks(length)
    columns = _krylov(to_real(system.B)[:, None], plan[size.bit_length() - 1 :], count)
    return torch.einsum("chjn,hin->chij", output_rows(system, plan, size), columns).flatten(-2)[..., :length]


def response(system: Dplr, plan: list, state: Tensor, length: int) -> Tensor:
    """(B, C, H, L): what the state (B, H, n) before the first step adds to the output of each step."""
    count, size = blocks(length)
    first = to_real(state + _increment(system, state))
    columns = _krylov(first[..., None, :], plan[size.bit_length() - 1 :], count)
    return torch.einsum("chjn,bhin->bchij", output_rows(system, plan, size), columns).flatten(-2)[..., :length]


def absorb(system: Dplr, plan: list, state: Tensor, u: Tensor) -> Tensor:
    """The state (B, H, n) after the inputs u (B, H, L)."""
    length = u.shape[-1]
    count, size = blocks(length)
    u = torch.nn.functional.pad(u, (count * size - length, 0)).unflatten(-1, (count, size))
    ends = u @ _krylov(to_real(system.B)[:, None], plan, size).flip(-2)  # b h i N
    for matrix in plan[size.bit_length() - 1 :]:
        if ends.shape[-2] == 1:
            break
        ends = torch.nn.functional.pad(ends, (0, 0, ends.shape[-2] % 2, 0))
        early, late = ends[..., 0::2, :], ends[..., 1::2, :]
        ends = late + early + early @ matrix.mT
    return to_complex(advance(to_real(state), plan, length) + ends[..., 0, :])


def advance(vector: Tensor, plan: list, steps: int) -> Tensor:
    """A_bar^steps applied to real states (..., H, N), by the bits of steps."""
    for bit, matrix in enumerate(plan):
        if steps >> bit & 1:
            vector = vector + torch.einsum("hij,...hj->...hi", matrix, vector)
    return vector


def output_rows(system: Dplr, plan: list, count: int) -> Tensor:
    """(C, H, count, N): C A_bar^j as real rows acting on [Re x, Im x]."""
    return _krylov(2 * to_real(system.C.conj())[..., None, :], [matrix.mT for matrix in plan], count)


def to_real(x: Tensor) -> Tensor:
    return torch.cat([x.real, x.imag], -1)


def to_complex(x: Tensor) -> Tensor:
    real, imaginary = x.chunk(2, -1)
    return torch.complex(real, imaginary)


def _with_conjugate(x: Tensor) -> Tensor:
    return torch.cat([x, x.conj()], -1)


def _diagonal_matrix(a: Tensor) -> Tensor:
    """(H, N, N): the product with a (H, n) as a real matrix on [Re x, Im x]."""
    real, imaginary = torch.diag_embed(a.real), torch.diag_embed(a.imag)
    return torch.cat([torch.cat([real, -imaginary], -1), torch.cat([imaginary, real], -1)], -2)


def _krylov(vectors: Tensor, matrices: list, count: int) -> Tensor:
    """v, M v, M^2 v, ..., `count` of them along axis -2, from the increments of M, M^2, M^4, ..."""
    for matrix in matrices:
        if vectors.shape[-2] >= count:
            break
        vectors = torch.cat([vectors, vectors + vectors @ matrix.mT], -2)
    return vectors[..., :count, :]


def _increment(system: Dplr, x: Tensor) -> Tensor:
    """(A_bar - I) x = (I - dt A / 2)^-1 dt A x for complex states (..., H, n)."""
    projected = torch.einsum("rhn,...hn->...hr", system.low_rank.conj(), x).real
    return _solve(system, system.diagonal * x - 2 * _spread(projected, system.low_rank))


def _solve(system: Dplr, x: Tensor) -> Tensor:
    """(I - dt A / 2)^-1 x."""
    x = system.resolvent * x
    projected = torch.einsum("rhn,...hn->...hr", system.low_rank.conj(), x).real
    weights = torch.einsum("hrq,...hq->...hr", system.inner, projected)
    return x - system.resolvent * _spread(weights, system.low_rank)


def _spread(weights: Tensor, low_rank: Tensor) -> Tensor:
    """sum_r weights (..., H, r) low_rank (r, H, n): real factors of complex vectors."""
    return torch.einsum("...hr,rhn->...hn", weights.to(low_rank.dtype), low_rank)


def _combine(inner: Tensor, low_rank: Tensor) -> Tensor:
    """sum_r inner (H, r, q) low_rank (r, H, n): (q, H, n)."""
    return torch.einsum("hrq,rhn->qhn", inner.to(low_rank.dtype), low_rank)
