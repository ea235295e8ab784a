"""The state spaces built as dense matrices and stepped one by one: slow and obvious, gradients by autodiff."""

import jax.numpy as jnp
from jax import lax


def s4d_matrices(A, B, C, dt, *, disc="zoh"):
    """A_bar (H, N, N), B_bar (H, N), C (C, H, N) of the diagonal state space, both halves of each conjugate pair."""
    A, B, C, dt = _both(A), _both(B), _both(C), dt[:, None]
    if disc == "bilinear":
        return _diagonal((1 + dt * A / 2) / (1 - dt * A / 2)), dt * B / (1 - dt * A / 2), C
    return _diagonal(jnp.exp(dt * A)), (jnp.exp(dt * A) - 1) / A * B, C


def s4_matrices(A, P, B, C, dt):
    """The bilinear discretisation of diag(A) - P P^*, by dense solves; shapes as `s4d_matrices`."""
    P, dt = _both(P), dt[:, None, None]
    dense = _diagonal(_both(A)) - jnp.einsum("rhn,rhm->hnm", P, P.conj())
    eye = jnp.eye(dense.shape[-1])
    left = eye - dt / 2 * dense
    drive = jnp.linalg.solve(left, dt * _both(B)[..., None])[..., 0]
    return jnp.linalg.solve(left, eye + dt / 2 * dense), drive, _both(C)


def kernel_reference(A_bar, B_bar, C, length):
    """K (C, H, L): the impulse response C A_bar^l B_bar, one step at a time."""

    def step(x, _):
        return jnp.einsum("hij,hj->hi", A_bar, x), jnp.einsum("chi,hi->ch", C, x).real

    return jnp.moveaxis(lax.scan(step, B_bar, length=length)[1], 0, -1)


def _both(v):
    return jnp.concatenate([v, v.conj()], -1)


def _diagonal(v):
    return v[..., None] * jnp.eye(v.shape[-1])
