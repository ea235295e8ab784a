"""The sCSSM recurrence, written out: one FFT, one product, one sum per frame; gradients by autodiff."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Float, HalfSpectrum, Reset, SpectralState, Video

from .native_transform import plain_to_space as to_space
from .native_transform import plain_to_spectrum as to_spectrum


def spectral_scan_reference(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str
) -> tuple[SpectralState, Float[Any, "b *t h w c"]]:
    """S_t = K S_{t-1} + x_t per frequency; y_t = irfft2(S_t). Arguments as `spectral_scan`, checked there."""

    def step(state, now):
        frame, reset = now
        past = jnp.where(reset[:, None, None, None], 0, spectrum * state)
        state = past + to_spectrum(frame)
        return state, to_space(state, frame.shape[-2])

    restarts = jnp.zeros(x.shape[:2], bool) if reset is None else reset
    state, y = lax.scan(step, state, (jnp.moveaxis(x, 1, 0), restarts.T))
    y = jnp.moveaxis(y, 0, 1).astype(x.dtype)
    return state, {"all": y, "last": y[:, -1], "mean": y.mean(1)}[readout]
