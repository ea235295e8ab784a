"""The fused Triton kernel (all frames and last frame, up to 64 x 64) and the Triton scan per frequency (above), in JAX.

Needs jax-triton beside a GPU build of jaxlib; both are imported at the first call. Gradients: `spectral_schedule`.
"""

import importlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cssm.core.errors import UsageError
from cssm.core.typing import Float, HalfSpectrum, Reset, SpectralState, Video
from cssm.kernels.spectral_layout import LARGEST, layout

from .transform import to_space, to_spectrum


def spectral_triton(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str
) -> tuple[SpectralState, Float[Any, "b *t h w c"]]:
    """(state, y); arguments as `spectral_scan`, checked there. Spectrum and state are read as irfft2 reads them."""
    if state.dtype != jnp.complex64:
        raise UsageError("implementation='triton' computes in float32: for float64 use 'parallel' or 'stream'")
    _require()
    reset = None if reset is None else reset.astype(jnp.int8)
    run = _fused if max(x.shape[2:4]) <= LARGEST else _between_transforms
    return run(x, spectrum, state, reset, readout)


def _require():
    try:
        importlib.import_module("jax_triton")
        from triton import JITFunction
    except ImportError as error:
        raise UsageError(
            f"implementation='triton' needs jax-triton and a GPU build of jaxlib ({error}): "
            "pip install 'cssm[cuda,triton]', or use 'parallel'"
        ) from error
    if jax.default_backend() == "cpu" and isinstance(_schedule().spectral_scan_kernel, JITFunction):
        raise UsageError("implementation='triton' needs a GPU, the backend is cpu: use 'stream'")


def _schedule():
    from cssm.kernels import spectral_schedule

    return spectral_schedule


def _call(kernel, inputs, outputs, grid, warps, stages, **constants):
    triton_call = importlib.import_module("jax_triton").triton_call
    shapes = [jax.ShapeDtypeStruct(shape, like.dtype) for shape, like in outputs]
    return triton_call(
        *inputs, kernel=kernel, out_shape=shapes, grid=grid, num_warps=warps, num_stages=stages, **constants
    )


def _fused(x, spectrum, state, reset, readout):
    height, width = x.shape[2:4]
    plan, tables = _schedule().make_plan(x.shape), layout(height, width)
    gain = _gather(tables.gain, _real(spectrum).reshape(x.shape[-1], -1)).reshape(plan.packed)
    start = _gather(tables.pack, _real(state).reshape(*state.shape[:2], -1)).reshape(x.shape[0], *plan.packed)
    if readout == "last":
        final = _unpack(tables, _last(x, gain, start, reset, plan), state)
        return final, to_space(final, width).astype(x.dtype)
    y, final = _frames(x, gain, start, reset, plan)
    return _unpack(tables, final, state), y.mean(1) if readout == "mean" else y


def _gather(gather, flat):
    """The map of `spectral_layout` over the last axis."""
    return (flat[..., gather.index] * gather.scale).sum(-2)


def _unpack(tables, packed, like):
    """The half spectrum of a packed state, of like's shape."""
    return _complex(_gather(tables.unpack, packed.reshape(*like.shape[:2], -1)).reshape(*like.shape, 2))


def _real(array):
    return jnp.stack([array.real, array.imag], -1)


def _complex(pair):
    return jax.lax.complex(pair[..., 0], pair[..., 1])


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _frames(x, gain, start, reset, plan):
    return _frames_forward(x, gain, start, reset, plan)[0]


def _frames_forward(x, gain, start, reset, plan):
    y, final, starts, _ = _schedule().scan(_call, plan, x, gain, _basis(plan), start, reset)
    return (y, final), (x, gain, starts, reset)


def _frames_backward(plan, saved, cotangents):
    (x, gain, starts, reset), (g, final) = saved, cotangents
    basis, weight = _basis(plan), _weight(plan)
    dx, dstart, afters, _ = _schedule().scan(_call, plan, g, gain, basis, final * weight, reset, reverse=True)
    dgain = _schedule().gain_gradient(_call, plan, x, g, gain, basis, starts, afters, reset)
    return dx, dgain / weight, dstart / weight, None


_frames.defvjp(_frames_forward, _frames_backward)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _last(x, gain, start, reset, plan):
    return _schedule().scan(_call, plan, x, gain, _basis(plan), start, reset, frames=False)[1]


def _last_forward(x, gain, start, reset, plan):
    options = {"frames": False, "slopes": True}
    _, final, _, slope = _schedule().scan(_call, plan, x, gain, _basis(plan), start, reset, **options)
    return final, (jnp.zeros(0, x.dtype), gain, slope, reset)


def _last_backward(plan, saved, final):
    like, gain, slope, reset = saved
    after, options = final * _weight(plan), {"reverse": True, "like": like}
    dx, dstart, _, _ = _schedule().scan(_call, plan, None, gain, _basis(plan), after, reset, **options)
    corner = layout(plan.height, plan.width).corner
    dgain = _schedule().conjugate_product(after, slope, corner, jnp.stack).sum(0)
    return dx, dgain / _weight(plan), dstart / _weight(plan), None


_last.defvjp(_last_forward, _last_backward)


def _basis(plan):
    return jnp.asarray(layout(plan.height, plan.width).basis)


def _weight(plan):
    """A packed cotangent is s / weight."""
    return layout(plan.height, plan.width).weight


def _between_transforms(x, spectrum, state, reset, readout):
    """FFT, a scan per frequency, inverse FFT: for grids above LARGEST."""
    frames = to_spectrum(x)
    flat = [_real(array).reshape(*array.shape[:-3], -1, 2) for array in (frames, spectrum, state)]
    states = _complex(_frequencies(*flat, reset).reshape(*frames.shape, 2))
    shown = {"all": lambda: states, "last": lambda: states[:, -1], "mean": lambda: states.mean(1)}[readout]()
    return states[:, -1], to_space(shown, x.shape[3]).astype(x.dtype)


@jax.custom_vjp
def _frequencies(x, gain, start, reset):
    return _frequencies_forward(x, gain, start, reset)[0]


def _frequencies_forward(x, gain, start, reset):
    from cssm.kernels.spectral_frequency import frequency_scan

    states = frequency_scan(_call, x, gain, start, reset)
    return states, (gain, start, states, reset)


def _frequencies_backward(saved, g):
    from cssm.kernels.spectral_frequency import frequency_gradient

    gain, start, states, reset = saved
    return *frequency_gradient(_call, g, gain, start, states, reset), None


_frequencies.defvjp(_frequencies_forward, _frequencies_backward)
