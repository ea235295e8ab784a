"""Input of few channels R lifted to many, x = u W: the FFT commutes with W, so it runs on R channels, not on C.

On a CPU the compiled kernel takes a frequency through all frames while its state is in registers (native_lifted.py).
Elsewhere, over a chunk of L frames the recurrence is one matrix product per frequency, for all channels and frames:
S_L = K^L S_0 + sum_{s, r} (K^(L-s) W_r) u_{s, r}. The weights are shared by the batch and by all chunks.
Memory for the gradient: the spectra of u (the lift's gradient needs them) and one state per chunk.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Float, HalfSpectrum, SpectralState

from .native_call import why_not_picked
from .native_lifted import native_lifted
from .transform import to_space, to_spectrum

CHUNK = 16  # frames; the weights hold CHUNK * R * C spectra


def lifted(
    u: Float[Any, "b t h w r"], lift: Float[Any, "r c"], spectrum: HalfSpectrum, state: SpectralState, readout: str
) -> tuple[SpectralState, Float[Any, "b h w c"]]:
    """(state, y) of the last frame or of the mean over frames of the recurrence on u @ lift."""
    batch, steps, _, width, _ = u.shape
    frames = to_spectrum(u).reshape(batch, steps, u.shape[-1], -1).astype(spectrum.dtype)  # b t r f
    flat, shape = spectrum.reshape(spectrum.shape[0], -1), state.shape  # c f
    state = state.reshape(batch, *flat.shape)
    compiled = batch > 0 and why_not_picked(u.shape[2], width, batch * len(flat), flat.dtype) is None
    run = partial(native_lifted, mean=readout == "mean") if compiled else partial(_by_chunks, readout=readout)
    state, shown = run(frames, lift.astype(state.real.dtype), flat, state)
    return state.reshape(shape), to_space(shown.reshape(shape), width).astype(u.dtype)


def _by_chunks(frames, lift, flat, state, readout):
    """(final, shown): the state after the last frame, and that, or the mean over frames."""
    steps = frames.shape[1]
    size = min(CHUNK, steps)
    powers, sums = _powers(flat, size)
    lift = lift.astype(flat.dtype)

    def advance(carry, chunk):
        state, total = carry
        length = chunk.shape[1]
        ends = _contract(chunk, lift, powers[:length])
        total = total + flat * sums[length] * state + _contract(chunk, lift, sums[1 : length + 1])
        return (powers[length] * state + ends, total), None

    first = steps % size  # the odd chunk goes first, the others share one compiled body
    carry = (state, jnp.zeros_like(state))
    if first:
        carry, _ = advance(carry, frames[:, :first])
    chunks = jnp.moveaxis(frames[:, first:].reshape(frames.shape[0], -1, size, *frames.shape[2:]), 1, 0)
    (state, total), _ = advance(carry, chunks[0]) if len(chunks) == 1 else lax.scan(advance, carry, chunks)
    return state, state if readout == "last" else total / steps


def _powers(spectrum, size):
    """K^0 .. K^size and G_0 .. G_size, with G_n = sum_{j<n} K^j: (size + 1, C, F) each."""
    powers, sums = [jnp.ones_like(spectrum)], [jnp.zeros_like(spectrum)]
    for _ in range(size):
        sums.append(sums[-1] + powers[-1])
        powers.append(powers[-1] * spectrum)
    return jnp.stack(powers), jnp.stack(sums)


def _contract(chunk, lift, weights):
    """sum over frames s and channels r of chunk[s, r] lift[r] weights[L - 1 - s]: (B, C, F)."""
    weights = jnp.einsum("rc,lcf->lrcf", lift, weights[::-1], precision="highest")
    merged = chunk.reshape(chunk.shape[0], -1, chunk.shape[-1])
    return jnp.einsum("bkf,kcf->bcf", merged, weights.reshape(-1, *weights.shape[2:]), precision="highest")
