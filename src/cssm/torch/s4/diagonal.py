"""S4D in PyTorch: the twin of cssm.ops.s4.diagonal; the maths is in cssm/ops/s4/README.md."""

from typing import NamedTuple

import torch
from torch import Tensor

from cssm.shared.s4_options import blocks


class Diagonal(NamedTuple):
    """increment = A_bar - 1 (H, n), B = B_bar (H, n), C (C, H, n), all complex."""

    increment: Tensor
    B: Tensor
    C: Tensor


class Plan(NamedTuple):
    """A_bar^j for j < S (H, n, S), A_bar^(iS) for i < I (H, n, I), and A_bar^L - 1 (H, n), where S I >= L."""

    fine: Tensor
    coarse: Tensor
    last: Tensor


def discretise(A: Tensor, B: Tensor, C: Tensor, dt: Tensor, disc: str) -> Diagonal:
    dt = dt if dt.ndim == 2 else dt[:, None]
    z = dt * A
    if disc == "bilinear":
        resolvent = 1 / (1 - z / 2)
        return Diagonal(z * resolvent, dt * B * resolvent, C)
    increment = _expm1(z)
    still = z == 0
    gain = torch.where(still, 1, increment / torch.where(still, 1, z))
    return Diagonal(increment, dt * gain * B, C)


def matrices(system: Diagonal) -> tuple[Tensor, Tensor, Tensor]:
    """A_bar, B_bar (H, n), C (C, H, n), complex: x' = A_bar x + B_bar u, y = 2 Re(C x)."""
    return 1 + system.increment, system.B, system.C


def plan(system: Diagonal, length: int) -> Plan:
    count, size = blocks(length)
    fine, stride = _powers(system.increment, size)
    return Plan(1 + fine, 1 + _powers(stride, count)[0], _power(system.increment, length))


def kernel(system: Diagonal, plan: Plan, length: int) -> Tensor:
    """K (C, H, L)."""
    return _vandermonde(system.C * system.B, plan, length)


def response(system: Diagonal, plan: Plan, state: Tensor, length: int) -> Tensor:
    """(B, C, H, L): what the state (B, H, n) before the first step adds to the output of each step."""
    return _vandermonde(system.C * (state + system.increment * state)[:, None], plan, length)


def absorb(system: Diagonal, plan: Plan, state: Tensor, u: Tensor) -> Tensor:
    """The state (B, H, n) after the inputs u (B, H, L)."""
    count, size = blocks(u.shape[-1])
    u = torch.nn.functional.pad(u, (count * size - u.shape[-1], 0)).unflatten(-1, (count, size))
    fine = plan.fine.flip(-1)
    within = torch.complex(*(torch.einsum("bhij,hnj->bhin", u, part) for part in (fine.real, fine.imag)))
    total = torch.einsum("bhin,hni->bhn", within, plan.coarse.flip(-1))
    return state + plan.last * state + system.B * total


def step(system: Diagonal, state: Tensor, u: Tensor) -> Tensor:
    """The state after one input u (B, H)."""
    return state + (system.increment * state + system.B * u[..., None])


def read(system: Diagonal, state: Tensor) -> Tensor:
    """y (B, C, H) = 2 Re(C x)."""
    return 2 * torch.einsum("chn,bhn->bch", system.C, state).real


def _expm1(z: Tensor) -> Tensor:
    x, y = z.real, z.imag
    return torch.complex(torch.expm1(x) * torch.cos(y) - 2 * torch.sin(y / 2) ** 2, torch.exp(x) * torch.sin(y))


def _powers(increment: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """A^0 - 1, ..., A^(count-1) - 1 along a new last axis, and A^m - 1 for the power of two m >= count."""
    table, stride = torch.zeros_like(increment)[..., None], increment
    while table.shape[-1] < count:
        table = torch.cat([table, table + stride[..., None] * (1 + table)], -1)
        stride = stride * (2 + stride)
    return table[..., :count], stride


def _power(increment: Tensor, exponent: int) -> Tensor:
    """A^exponent - 1 from A - 1, by the bits of the exponent."""
    total = torch.zeros_like(increment)
    for bit in range(exponent.bit_length()):
        if exponent >> bit & 1:
            total = total + increment * (1 + total)
        increment = increment * (2 + increment)
    return total


def _vandermonde(weights: Tensor, plan: Plan, length: int) -> Tensor:
    """2 Re sum_n weights[..., h, n] A^l for l < length: per head, one real matrix product of (i, 2n) and (2n, j)."""
    rows = 2 * weights[..., None] * plan.coarse  # ... h n i
    rows = torch.cat([rows.real, -rows.imag], -2)
    columns = torch.cat([plan.fine.real, plan.fine.imag], -2)  # h 2n j
    return torch.einsum("...hni,hnj->...hij", rows, columns).flatten(-2)[..., :length]
