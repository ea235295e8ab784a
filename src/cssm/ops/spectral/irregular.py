"""Frames at irregular times: S_t = K^dt_t S_{t-1} + x_t, with K^dt in polar form, |K|^dt exp(i dt arg K).

The principal branch, so K^a K^b = K^(a + b). Columns 0 and W / 2 hold each frequency beside its conjugate (row u beside
row -u): there the mean of K_u^dt and conj(K_-u^dt) is taken, which changes nothing unless K is real and negative, and
then gives |K|^dt cos(pi dt), so that the field stays real. Only whole dt compose at those. 0^dt = 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Float, HalfSpectrum, Reset, SpectralState, Video

from .transform import to_space, to_spectrum

NOTHING = 1e-30  # a smaller gain counts as 0: its logarithm has no finite float32 gradient


def check_dt(dt: Any, shape: tuple[int, ...], real: Any = jnp.float32) -> Float[Array, "b ..."]:
    """dt as an array of `shape`, (B, T) or (B,). Values known only at run time cannot raise: a bad one becomes nan.

    Raises:
      ShapeError: another shape, or numbers that are not real. UsageError: a step that is not positive and finite.

    >>> check_dt([[1, 2.5]], (1, 2)).tolist()
    [[1.0, 2.5]]
    """
    # a constant stays a NumPy array: inside jit, jnp would hide its values
    dt = dt if isinstance(dt, Tracer) else np.asarray(dt)
    if dt.shape != tuple(shape):
        legend = "(B, T)" if len(shape) == 2 else "(B,)"
        raise ShapeError(f"dt has shape {dt.shape}, expected {tuple(shape)} {legend}: one step length for every frame")
    if not jnp.issubdtype(dt.dtype, jnp.floating) and not jnp.issubdtype(dt.dtype, jnp.integer):
        raise ShapeError(f"dt must be real numbers, got {dt.dtype}")
    good = (dt > 0) & (dt < np.inf)
    if isinstance(good, np.ndarray) and not good.all():
        raise UsageError(f"dt holds {dt[~good][0]}: step lengths must be positive and finite")
    return jnp.where(good, dt, jnp.nan).astype(real)


def given_dt(dt: Any, shape: tuple[int, ...], real: Any = jnp.float32) -> Float[Array, "b ..."] | None:
    """`check_dt`, or None for the default path: without dt, and where every step is known to be 1.

    >>> given_dt([[1.0, 1.0]], (1, 2)) is None
    True
    """
    if dt is None:
        return None
    checked = check_dt(dt, shape, real)
    return None if not isinstance(dt, Tracer) and (np.asarray(dt) == 1).all() else checked


def spectral_power(spectrum: HalfSpectrum, dt: Float[Any, "b"], width: int) -> SpectralState:
    """(B, C, H, Wf): K^dt of a spectrum (C, H, Wf) of a real kernel on a grid `width` pixels wide; dt (B,).

    >>> spectral_power(jnp.full((1, 1, 1), 0.25 + 0j), jnp.array([0.5, 2.0]), 1).real.ravel().tolist()
    [0.5, 0.0625]
    """
    return _power(_polar(spectrum, width), dt, width)


def age(state: SpectralState, spectrum: HalfSpectrum, dt: Any, width: int) -> SpectralState:
    """K^dt S of a state (B, C, H, Wf) for dt (B,), or K S where dt is None: what is left of it at the next frame."""
    dt = given_dt(dt, state.shape[:1], state.real.dtype)
    return (spectrum if dt is None else spectral_power(spectrum, dt, width)) * state


def irregular(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str, dt: Float[Any, "b t"]
) -> tuple[SpectralState, Float[Any, "b *t h w c"]]:
    """Arguments as `spectral_scan`, checked there. Frame by frame; the gradient keeps the states, and no power of K."""
    width = x.shape[3]
    polar = _polar(spectrum, width)

    @jax.checkpoint
    def body(carry, now):
        state, total = carry
        frame, dt, reset = now
        past = jnp.where(reset[:, None, None, None], 0, _power(polar, dt, width) * state)
        state = past + to_spectrum(frame)
        total = total + state if readout == "mean" else total
        return (state, total), to_space(state, width).astype(x.dtype) if readout == "all" else None

    restarts = jnp.zeros(x.shape[:2], bool) if reset is None else reset
    (state, total), y = lax.scan(body, (state, jnp.zeros_like(state)), (jnp.moveaxis(x, 1, 0), dt.T, restarts.T))
    if readout == "all":
        return state, jnp.moveaxis(y, 0, 1)
    return state, to_space(state if readout == "last" else total / x.shape[1], width).astype(x.dtype)


def _polar(spectrum, width: int):
    """(log |K|, arg K, K != 0), with finite gradients everywhere: 0 where K = 0."""
    spectrum = _hermitian(spectrum, width)
    something = jnp.abs(spectrum) > NOTHING
    safe = jnp.where(something, spectrum, 1)
    # scaled to about 1: the squares in the gradients of abs and atan2 would vanish for a tiny one
    scale = lax.stop_gradient(jnp.maximum(jnp.abs(safe.real), jnp.abs(safe.imag)))
    real, imag = safe.real / scale, safe.imag / scale
    return jnp.log(scale) + 0.5 * jnp.log(real**2 + imag**2), jnp.arctan2(imag, real), something


def _power(polar, dt, width: int):
    log_magnitude, phase, something = polar
    dt = dt[:, None, None, None]
    power = jnp.where(something, jnp.exp(dt * log_magnitude) * lax.complex(jnp.cos(dt * phase), jnp.sin(dt * phase)), 0)
    return _hermitian(power, width)


def _hermitian(spectrum, width: int):
    """Rows u and -u of the columns 0 and W / 2 made conjugates of one another: they are the same wave."""
    own = [0, width // 2] if width % 2 == 0 else [0]
    mirror = -np.arange(spectrum.shape[-2]) % spectrum.shape[-2]
    columns = spectrum[..., own]
    return spectrum.at[..., own].set((columns + columns[..., mirror, :].conj()) / 2)
