"""The strategies of `opt_ssm_forward`: x (B, L, H_in), K (N, taps), B_ (N, H_in), C (H_out, N) -> y (B, L, H_out).

All of one precision; K, B_ and C are either all real or all complex, and complex where x is. n is the transform length.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Inexact
from cssm.shared.fft_plan import block_of

einsum = partial(jnp.einsum, precision="highest")


def kernel(
    x: Inexact[Any, "b t i"], K: Inexact[Any, "n l"], B_: Inexact[Any, "n i"], C: Inexact[Any, "o n"], n: int
) -> Inexact[Any, "b t o"]:
    """Fold C, K and B_ into one kernel (H_out, H_in) per tap and convolve with it."""
    outer = (C.T[:, :, None] * B_[:, None, :]).reshape(K.shape[0], -1)
    taps = product(outer.T, K, real=not jnp.iscomplexobj(x))
    forward, inverse = transforms(jnp.iscomplexobj(taps), n)
    spectrum = forward(taps, -1).reshape(C.shape[0], B_.shape[1], -1)
    states = einsum("oif,bif->bof", spectrum, forward(x.mT, -1))
    return inverse(states, -1)[..., : x.shape[1]].mT


def projection(
    x: Inexact[Any, "b t i"], K: Inexact[Any, "n l"], B_: Inexact[Any, "n i"], C: Inexact[Any, "o n"], n: int
) -> Inexact[Any, "b t o"]:
    """Project to the N states, convolve each with its kernel, project out."""
    forward, inverse = transforms(jnp.iscomplexobj(K), n)
    spectrum, real = forward(K, -1), not jnp.iscomplexobj(x)

    def convolve(x):
        states = inverse(forward(product(B_, x.T), -1) * spectrum, -1)[:, : x.shape[0]]
        return product(C, states, real=real).T

    return over_batch(convolve, x, K.shape[0] * n)


def fallback(
    x: Inexact[Any, "b t i"], K: Inexact[Any, "n l"], B_: Inexact[Any, "n i"], C: Inexact[Any, "o n"], n: int
) -> Inexact[Any, "b t o"]:
    """Project in, multiply and project out at every frequency: only H_in and H_out channels are transformed."""
    forward, inverse = transforms(jnp.iscomplexobj(x), n)
    if jnp.iscomplexobj(K) and not jnp.iscomplexobj(x):
        gain, B_, C = _with_conjugates(jnp.fft.fft(K, n=n), B_, C)
    else:
        gain = forward(K, -1)

    def convolve(x):
        states = gain * product(B_, forward(x.T, -1))
        return inverse(product(C, states), -1)[:, : x.shape[0]].T

    return over_batch(convolve, x, gain.shape[0] * n)


STRATEGIES = {"kernel": kernel, "projection": projection, "fallback": fallback}


def transforms(is_complex: bool, n: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(forward, inverse) along an axis: complex, or real to a half spectrum and back."""
    forward, inverse = (jnp.fft.fft, jnp.fft.ifft) if is_complex else (jnp.fft.rfft, jnp.fft.irfft)
    return (lambda x, axis: forward(x, n=n, axis=axis)), (lambda x, axis: inverse(x, n=n, axis=axis))


def over_batch(function: Callable[..., Any], x: Inexact[Any, "b ..."], numbers: int) -> Inexact[Any, "b ..."]:
    """function of every example, of `numbers` spectral numbers each; on CPU a few at a time, to stay in cache.

    Its gradient recomputes them, so that the memory of both directions is that of a few examples.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(function)(x)
    size = block_of(x.shape[0], 1, numbers)
    return lax.map(jax.checkpoint(function), x, batch_size=size) if size < x.shape[0] else jax.vmap(function)(x)


def product(matrix: Inexact[Any, "i j"], x: Inexact[Any, "*lead j k"], real: bool = False) -> Inexact[Any, "*lead i k"]:
    """matrix @ x, or its real part, by one real product where one of them is real or the real part is wanted."""
    rows = matrix.shape[0]
    if not jnp.iscomplexobj(matrix):
        if not jnp.iscomplexobj(x):
            return jnp.matmul(matrix, x, precision="highest")
        return product(matrix, x.real) if real else lax.complex(product(matrix, x.real), product(matrix, x.imag))
    if not jnp.iscomplexobj(x):
        parts = product(matrix.real if real else jnp.concatenate([matrix.real, matrix.imag]), x)
        return parts if real else lax.complex(parts[:rows], parts[rows:])
    parts = jnp.concatenate([x.real, x.imag])
    upper = jnp.concatenate([matrix.real, -matrix.imag], 1)
    if real:
        return product(upper, parts)
    return lax.complex(product(upper, parts), product(jnp.concatenate([matrix.imag, matrix.real], 1), parts))


def _with_conjugates(spectrum, B_, C):
    """2 N states whose half spectra give the real part for a real input: K, B_, C / 2 and their conjugates."""
    n = spectrum.shape[-1]
    mirrored = jnp.roll(jnp.flip(spectrum, -1), 1, -1).conj()
    gain = jnp.concatenate([spectrum, mirrored])[:, : n // 2 + 1]
    return gain, jnp.concatenate([B_, B_.conj()]), jnp.concatenate([C, C.conj()], 1) / 2
