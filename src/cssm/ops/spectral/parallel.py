"""The whole clip at once: one batched FFT, log2 T passes, one batched inverse FFT. For GPU and TPU.

Memory for the gradient: all frames save the states; last and mean save two or four arrays, whatever T (`stream` has
the notation). The forward pass of the gradient takes the slopes dS/dK by differentiating its tree of products along K.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cssm.core.typing import Float, HalfSpectrum, Reset, SpectralState, Video

from ..scan import linear_scan
from .native_transform import plain_to_space as to_space
from .native_transform import plain_to_spectrum as to_spectrum
from .stream import frame_cotangents, kernel_cotangent, stream, witness
from .transform import adjoint_weight


def parallel(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str
) -> tuple[SpectralState, Float[Any, "b *t h w c"]]:
    if readout == "all":
        states = linear_scan(spectrum, to_spectrum(x), state, reset=reset, implementation="associative")
        return states[:, -1], to_space(states, x.shape[3]).astype(x.dtype)
    if reset is not None:  # the tree needs one gain for all frames; frame by frame, memory stays independent of T
        return stream(x, spectrum, state, reset, readout)
    return _reduced(x, spectrum, state, readout)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _reduced(x, spectrum, state, readout):
    return _shown(_tree(spectrum, to_spectrum(x), state, readout), x, readout)


def _forward(x, spectrum, state, readout):
    frames = to_spectrum(x)
    tree = lambda spectrum: _tree(spectrum, frames, state, readout)  # noqa: E731
    sums, slopes = jax.jvp(tree, (spectrum,), (jnp.ones_like(spectrum),))  # holomorphic in K: the slope is dS/dK
    return _shown(sums, x, readout), (spectrum, slopes, witness(x))


def _backward(readout, saved, cotangents):
    spectrum, slopes, like = saved
    steps, width = like.shape[1], like.shape[3]
    weight = adjoint_weight(spectrum.shape[-2], width, spectrum.dtype)
    last, g = frame_cotangents(readout, steps, weight, *cotangents)
    reversed_frames = _powers(spectrum.conj(), last, g, steps)
    dx = to_space(reversed_frames[:, ::-1], width).astype(like.dtype)
    before = spectrum.conj() * reversed_frames[:, -1]
    return dx, kernel_cotangent(last, g, slopes) * weight, before.conj() * weight


_reduced.defvjp(_forward, _backward)


def _shown(sums, x, readout):
    state, total = sums
    shown = state if readout == "last" else total / x.shape[1]
    return state, to_space(shown, x.shape[3]).astype(x.dtype)


def _tree(spectrum, frames, state, readout):
    """(S_T, sum_t S_t or None) by halving: neighbouring pieces are joined, and the piece's gain K^n squared."""
    ends = jnp.concatenate([state[:, None], frames], 1)
    totals = None if readout == "last" else jnp.concatenate([jnp.zeros_like(state)[:, None], frames], 1)
    power, gain = spectrum, spectrum  # K^n and K + .. + K^n for pieces of n frames
    while ends.shape[1] > 1:
        if totals is not None:
            totals = _even(totals)
            totals = totals[:, 0::2] + gain * _even(ends)[:, 0::2] + totals[:, 1::2]
        ends = _even(ends)
        ends = power * ends[:, 0::2] + ends[:, 1::2]
        power, gain = power * power, gain * (1 + power)
    return ends[:, 0], None if totals is None else totals[:, 0]


def _even(pieces):
    """An empty piece in front when their number is odd."""
    return jnp.pad(pieces, [(0, 0), (pieces.shape[1] % 2, 0)] + [(0, 0)] * (pieces.ndim - 2))


def _powers(spectrum, first, g, steps):
    """s_0 = first (+ g), s_i = K s_{i-1} (+ g), the whole sequence by doubling."""
    sequence = (first if g is None else first + g)[:, None]
    power, gain = spectrum, jnp.ones_like(spectrum)  # K^n and 1 + .. + K^(n-1) for n frames
    while sequence.shape[1] < steps:
        later = power * sequence
        sequence = jnp.concatenate([sequence, later if g is None else later + (gain * g)[:, None]], 1)
        power, gain = power * power, gain * (1 + power)
    return sequence[:, :steps]
