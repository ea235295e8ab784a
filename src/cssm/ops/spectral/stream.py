"""Frame by frame: FFT, recurrence and inverse FFT of one frame while it is in cache. The CPU winner.

Memory for the gradient: all frames save the states; last and mean save two arrays, whatever T. In the notation of
the README, s_t is the cotangent of S_t scaled so that dx_t = irfft2(s_t); it obeys s_t = rfft2(g_t) + conj(K) s_{t+1}.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Complex, Float, Frame, HalfSpectrum, Inexact, Reset, SpectralState, Video

from .native_transform import plain_to_space as to_space
from .native_transform import plain_to_spectrum as to_spectrum
from .transform import adjoint_weight


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def stream(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str
) -> tuple[SpectralState, Float[Any, "b *t h w c"]]:
    return _scan_all(x, spectrum, state, reset)[:2] if readout == "all" else _reduce(x, spectrum, state, reset, readout)


def _forward(x, spectrum, state, reset, readout):
    if readout == "all":
        final, y, before = _scan_all(x, spectrum, state, reset, save=True)
        return (final, y), (spectrum, reset, before, witness(x))
    out, slopes = reduce_with_slopes(x, spectrum, state, reset, readout)
    return out, (spectrum, reset, slopes, witness(x))


def _backward(readout, saved, cotangents):
    backward = _backward_all if readout == "all" else partial(backward_reduced, readout)
    return backward(saved, *cotangents)


stream.defvjp(_forward, _backward)


def witness(x: Video) -> Float[Any, "0 t h w"]:
    """A zero-size array that remembers x's width, length and dtype in the residuals."""
    return jnp.zeros((0, *x.shape[1:4]), x.dtype)


def _frame(x, t):
    return to_spectrum(lax.dynamic_index_in_dim(x, t, 1, keepdims=False))


def keep(reset: Reset | None, t: Any, value: Complex[Any, "b c h wf"]) -> Complex[Any, "b c h wf"]:
    """value, or 0 in the batch rows that restart at frame t."""
    if reset is None:
        return value
    return jnp.where(lax.dynamic_index_in_dim(reset, t, 1, keepdims=False)[:, None, None, None], 0, value)


def put(array: Inexact[Any, "b t *rest"], value: Inexact[Any, "b *rest"], t: Any) -> Inexact[Any, "b t *rest"]:
    return lax.dynamic_update_index_in_dim(array, value.astype(array.dtype), t, 1)


def _scan_all(x, spectrum, state, reset, save=False):
    """Final state, y for every frame, and (when saved) the state before every frame."""
    steps, width = x.shape[1], x.shape[3]
    before = jnp.zeros((state.shape[0], steps if save else 0, *state.shape[1:]), state.dtype)

    def body(t, carry):
        state, y, before = carry
        before = put(before, state, t) if save else before
        state = keep(reset, t, spectrum * state) + _frame(x, t)
        return state, put(y, to_space(state, width), t), before

    return lax.fori_loop(0, steps, body, (state, jnp.zeros_like(x), before))


def _reduce(x, spectrum, state, reset, readout):
    """Final state, and the last or mean frame of y: one inverse FFT."""
    steps, width = x.shape[1], x.shape[3]

    def body(t, carry):
        state, total = carry
        state = keep(reset, t, spectrum * state) + _frame(x, t)
        return state, total + state if readout == "mean" else total

    total = jnp.zeros_like(state) if readout == "mean" else None
    state, total = lax.fori_loop(0, steps, body, (state, total))
    return state, _readout(state, total, steps, width).astype(x.dtype)


def _readout(state, total, steps, width):
    return to_space(state if total is None else total / steps, width)


def reduce_with_slopes(x, spectrum, state, reset, readout):
    """As `_reduce`, carrying P_t = dS_t/dK = K P_{t-1} + S_{t-1} along, so that the backward pass needs no states."""
    steps, width = x.shape[1], x.shape[3]

    def body(t, carry):
        state, slope, totals = carry
        slope = keep(reset, t, spectrum * slope + state)
        state = keep(reset, t, spectrum * state) + _frame(x, t)
        return state, slope, None if totals is None else (totals[0] + state, totals[1] + slope)

    zeros = jnp.zeros_like(state)
    totals = (zeros, zeros) if readout == "mean" else None
    state, slope, totals = lax.fori_loop(0, steps, body, (state, zeros, totals))
    total, slope_total = totals or (None, None)
    out = state, _readout(state, total, steps, width).astype(x.dtype)
    return out, (slope, slope_total)


def _backward_all(saved, state_cotangent, g):
    spectrum, reset, before, like = saved
    steps, width = like.shape[1], like.shape[3]
    weight = adjoint_weight(spectrum.shape[-2], width, spectrum.dtype)

    def body(i, carry):
        carried, dx, dspectrum = carry  # carried: conj(K) s_{t+1}
        t = steps - 1 - i
        s = carried + _frame(g, t)
        past = keep(reset, t, s.conj())
        dspectrum = dspectrum + (past * lax.dynamic_index_in_dim(before, t, 1, keepdims=False)).sum(0)
        return past.conj() * spectrum.conj(), put(dx, to_space(s, width), t), dspectrum

    dx = jnp.zeros((g.shape[0], *like.shape[1:], g.shape[-1]), like.dtype)
    init = (state_cotangent.conj() / weight, dx, jnp.zeros_like(spectrum))
    carried, dx, dspectrum = lax.fori_loop(0, steps, body, init)
    return dx, dspectrum * weight, carried.conj() * weight, None


def frame_cotangents(
    readout: str, steps: int, weight: Float[Any, "wf"], state_cotangent: SpectralState, g: Frame
) -> tuple[SpectralState, SpectralState | None]:
    """s of the last frame but for g, and the g that the mean adds to s at every frame (None for last)."""
    carried, g = state_cotangent.conj() / weight, to_spectrum(g)
    return (carried + g, None) if readout == "last" else (carried, g / steps)


def kernel_cotangent(last: SpectralState, g: SpectralState | None, slopes: Any) -> HalfSpectrum:
    """sum over the batch of s* dS/dK: through the last state, and through the sum of all states for the mean."""
    slope, slope_total = slopes
    through = last.conj() * slope
    return (through if g is None else through + g.conj() * slope_total).sum(0)


def backward_reduced(readout, saved, state_cotangent, g):
    spectrum, reset, slopes, like = saved
    steps, width = like.shape[1], like.shape[3]
    weight = adjoint_weight(spectrum.shape[-2], width, spectrum.dtype)
    last, g = frame_cotangents(readout, steps, weight, state_cotangent, g)

    def body(i, carry):
        carried, dx = carry
        t = steps - 1 - i
        s = carried if g is None else carried + g
        return keep(reset, t, spectrum.conj() * s), put(dx, to_space(s, width), t)

    dx = jnp.zeros((last.shape[0], *like.shape[1:], last.shape[1]), like.dtype)
    carried, dx = lax.fori_loop(0, steps, body, (last, dx))
    return dx, kernel_cotangent(last, g, slopes) * weight, carried.conj() * weight, None
