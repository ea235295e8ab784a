"""The state spaces built as dense matrices and stepped one by one: slow and obvious, gradients by autodiff."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Complex, Float


def s4d_matrices(
    A: Complex[Any, "h n"], B: Complex[Any, "h n"], C: Complex[Any, "c h n"], dt: Float[Any, "h"], *, disc: str = "zoh"
) -> tuple[Complex[Any, "h m m"], Complex[Any, "h m"], Complex[Any, "c h m"]]:
    """A_bar (H, N, N), B_bar (H, N), C (C, H, N) of the diagonal state space, both halves of each conjugate pair."""
    A, B, C, dt = _both(A), _both(B), _both(C), dt[:, None]
    if disc == "bilinear":
        return _diagonal((1 + dt * A / 2) / (1 - dt * A / 2)), dt * B / (1 - dt * A / 2), C
    return _diagonal(jnp.exp(dt * A)), (jnp.exp(dt * A) - 1) / A * B, C


def s4_matrices(
    A: Complex[Any, "h n"], P: Complex[Any, "r h n"], B: Complex[Any, "h n"], C: Complex[Any, "c h n"],
    dt: Float[Any, "h"],
) -> tuple[Complex[Any, "h m m"], Complex[Any, "h m"], Complex[Any, "c h m"]]:  # fmt: skip
    """The bilinear discretisation of diag(A) - P P^*, by dense solves; shapes as `s4d_matrices`."""
    P, dt = _both(P), dt[:, None, None]
    dense = _diagonal(_both(A)) - jnp.einsum("rhn,rhm->hnm", P, P.conj())
    eye = jnp.eye(dense.shape[-1])
    left = eye - dt / 2 * dense
    drive = jnp.linalg.solve(left, dt * _both(B)[..., None])[..., 0]
    return jnp.linalg.solve(left, eye + dt / 2 * dense), drive, _both(C)


def kernel_reference(
    A_bar: Complex[Any, "h m m"], B_bar: Complex[Any, "h m"], C: Complex[Any, "c h m"], length: int
) -> Float[Any, "c h l"]:
    """K (C, H, L): the impulse response C A_bar^l B_bar, one step at a time."""

    def step(x, _):
        return jnp.einsum("hij,hj->hi", A_bar, x), jnp.einsum("chi,hi->ch", C, x).real

    return jnp.moveaxis(lax.scan(step, B_bar, length=length)[1], 0, -1)


def _both(v):
    return jnp.concatenate([v, v.conj()], -1)


def _diagonal(v):
    return v[..., None] * jnp.eye(v.shape[-1])
