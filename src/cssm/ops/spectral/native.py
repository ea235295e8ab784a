"""The compiled kernel of `kernels/spectral_cpu.py` inside JAX programs, with its own gradients.

    forward    S_t = K S_{t-1} + X_t; for last and mean, when gradients are wanted, P = dS/dK as well
    backward   the same kernel from the last frame to the first, with conj(K), and dK on the way (see README.md)

Nothing is kept per frame: backward transforms x again, which costs less than writing and reading its spectra.
vmap joins the batch, or takes kernels one after the other where they differ; a second derivative is that of `stream`.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from cssm.core.errors import UsageError
from cssm.core.typing import Float, HalfSpectrum, Reset, SpectralState, Video
from cssm.shared.spectral import CONSTANT, FRAMES, NOTHING, PRODUCTS, SCAN, SLOPES

from .native_call import batched, call, why_not, with_gradient_of
from .stream import backward_reduced, frame_cotangents, kernel_cotangent, reduce_with_slopes, stream, witness
from .transform import adjoint_weight


def native(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str
) -> tuple[SpectralState, Float[Any, "b *t h w c"]]:
    reason = why_not(*x.shape[2:4])
    if reason is not None:
        raise UsageError(f"implementation='native' of spectral_scan cannot run here: {reason}; leave it out")
    if x.shape[0] == 0:
        return stream(x, spectrum, state, reset, readout)
    real = state.real.dtype
    final, y = _native(x.astype(real), spectrum, state, _marks(reset), readout)
    return final, y.astype(x.dtype)


def _marks(reset: Reset | None) -> Any:
    """The resets as the kernel takes them: none is an array of no size."""
    return jnp.zeros((0,), bool) if reset is None else reset


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _native(x, spectrum, state, reset, readout):
    y, final, *_ = _scan(x, spectrum, state, reset, every_frame=readout == "all", totals=readout == "mean")
    return final, y


def _forward(x, spectrum, state, reset, readout):
    if readout == "all":
        return _native(x, spectrum, state, reset, readout), (x, spectrum, state, reset, None)
    out, slopes = _with_slopes(readout)(x, spectrum, state, reset)
    return out, (witness(x), spectrum, None, reset, slopes)


def _backward(readout, saved, cotangents):
    x, spectrum, state, reset, slopes = saved
    if readout == "all":
        return *_gradient_of_all(x, spectrum, state, reset, *cotangents), None
    return *_gradient_of_reduced(readout)(x, spectrum, reset, slopes, *cotangents), None


_native.defvjp(_forward, _backward)


def _plain_gradient(x, spectrum, state, reset, final, g):
    marks = _rows(reset)
    return jax.vjp(lambda *arrays: stream(*arrays, marks, "all"), x, spectrum, state)[1]((final, g))


@partial(with_gradient_of, _plain_gradient)
def _gradient_of_all(x, spectrum, state, reset, final, g):
    """The cotangents of x, spectrum and state."""
    weight = adjoint_weight(spectrum.shape[-2], x.shape[3], spectrum.dtype)
    last = final.conj() / weight  # s of the last frame, but for g
    dx, carried, _, through, _ = _scan(
        g, spectrum, last, reset, every_frame=True, reverse=True, slopes=PRODUCTS, seen=x, before=state
    )
    return dx, through.sum(0).conj() * weight, carried.conj() * weight


@cache
def _with_slopes(readout):
    """(final, y) and (P, the sum of P, which the mean needs)."""

    def run(x, spectrum, state, reset):
        mean = readout == "mean"
        y, final, _, slope, slope_total = _scan(
            x, spectrum, state, reset, every_frame=False, totals=mean, slopes=SLOPES
        )
        return (final, y), (slope, slope_total if mean else None)

    def plain(x, spectrum, state, reset):
        return reduce_with_slopes(x, spectrum, state, _rows(reset), readout)

    return with_gradient_of(plain, run)


@cache
def _gradient_of_reduced(readout):
    """The cotangents of x, spectrum and state, for which P stands for all that was seen."""

    def run(like, spectrum, reset, slopes, final, g):
        steps, width = like.shape[1], like.shape[3]
        weight = adjoint_weight(spectrum.shape[-2], width, spectrum.dtype)
        last, given = frame_cotangents(readout, steps, weight, final, g)
        nothing = jnp.zeros((final.shape[0], *like.shape[1:], 0), like.dtype)
        dx, carried, *_ = _scan(nothing, spectrum, last, reset, every_frame=True, reverse=True, given=given)
        return dx, kernel_cotangent(last, given, slopes) * weight, carried.conj() * weight

    def plain(like, spectrum, reset, slopes, final, g):
        return backward_reduced(readout, (spectrum, _rows(reset), slopes, like), final, g)[:3]

    return with_gradient_of(plain, run)


def _rows(marks: Any) -> Any:
    """The resets as the plain path takes them."""
    return marks if marks.size else None


def _scan(
    x, spectrum, state, reset, *, every_frame, reverse=False, totals=False, slopes=0, given=None, seen=None, before=None
):
    """y, final, total, slope, slope_total of `spectral_cpu.scan`; x of no channels stands for no input, or `given`."""
    source = FRAMES if x.shape[-1] else NOTHING if given is None else CONSTANT
    nothing, none = jnp.zeros((0,), state.dtype), jnp.zeros((0,), x.dtype)
    given, seen, before = (
        empty if a is None else a for a, empty in ((given, nothing), (seen, none), (before, nothing))
    )
    flags = (source, int(every_frame), int(reverse), int(totals), slopes)
    return _scan_of(flags)(x, spectrum, state, reset, given, seen, before)


@cache
def _scan_of(flags):
    def run(x, spectrum, state, reset, given, seen, before):
        _, every_frame, _, totals, slopes = flags
        shape = (*x.shape[:4], state.shape[1])
        shown = shape if every_frame else (shape[0], *shape[2:])
        size = lambda wanted: state.shape if wanted else (0,)  # noqa: E731
        results = [state.shape, size(totals), size(slopes), size(slopes and totals)]
        results = [jax.ShapeDtypeStruct(s, state.dtype) for s in results]
        results = [jax.ShapeDtypeStruct(shown, state.real.dtype), *results]
        return call(SCAN, flags, [x, given, spectrum, state, reset], [seen, before], shape[2:4], results)

    return batched(run, shared=(1,))
