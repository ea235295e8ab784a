"""The whole clip at once: one batched FFT, a scan in log2 T passes, one batched inverse FFT. For GPU and TPU."""

import jax.numpy as jnp

from ..scan import linear_scan
from .transform import to_space, to_spectrum


def parallel(x, spectrum, state, reset, readout):
    frames, width = to_spectrum(x), x.shape[3]
    if readout == "last" and reset is None:
        state = _horner_tree(spectrum, jnp.concatenate([state[:, None], frames], 1))
        return state, to_space(state, width).astype(x.dtype)
    states = linear_scan(spectrum, frames, state, reset=reset, implementation="associative")
    shown = {"all": states, "last": states[:, -1], "mean": states.mean(1)}[readout]
    return states[:, -1], to_space(shown, width).astype(x.dtype)


def _horner_tree(spectrum, frames):
    """sum_t K^(T-1-t) x_t by halving: neighbours are joined, the spectrum squared."""
    while frames.shape[1] > 1:
        if frames.shape[1] % 2:
            frames = jnp.pad(frames, [(0, 0), (1, 0)] + [(0, 0)] * (frames.ndim - 2))
        frames = spectrum * frames[:, 0::2] + frames[:, 1::2]
        spectrum = spectrum * spectrum
    return frames[:, 0]
