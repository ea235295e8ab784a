"""rfft2 and irfft2 of channels-last frames by the compiled kernel: two linear primitives, each the other's transpose.

On other platforms than CPUs they are lowered to XLA's own transforms. In JAX's convention of cotangents, with
w = m / (H W) of `column_weights`: the transpose of to_spectrum is irfft2(conj(ct) / w), that of to_space
w conj(rfft2(ct)).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cssm.shared.spectral import TO_SPACE, TO_SPECTRUM, column_weights

from .native_call import call


def to_spectrum(x: Any) -> Any:
    """(N, H, W, C) -> (N, C, H, Wf)."""
    return _to_spectrum.bind(x)


def to_space(spectrum: Any, width: int) -> Any:
    """(N, C, H, Wf) -> (N, H, W, C)."""
    return _to_space.bind(spectrum, width=width)


def plain_to_spectrum(x):
    return jnp.fft.rfft2(jnp.moveaxis(x.astype(jnp.promote_types(x.dtype, jnp.float32)), -1, -3))


def plain_to_space(spectrum, width):
    return jnp.moveaxis(jnp.fft.irfft2(spectrum, s=(spectrum.shape[-2], width)), -3, -1)


def _native_to_spectrum(x):
    rows, height, width, channels = x.shape
    dtype = jnp.result_type(x.dtype, jnp.complex64)
    owner = jnp.zeros((rows, channels, 0), dtype)
    result = jax.ShapeDtypeStruct((rows, channels, height, width // 2 + 1), dtype)
    return call(TO_SPECTRUM, (0,) * 5, [x, owner, owner, owner, jnp.zeros(0, bool)], [], (height, width), [result])[0]


def _native_to_space(spectrum, width):
    rows, channels, height, _ = spectrum.shape
    result = jax.ShapeDtypeStruct((rows, height, width, channels), spectrum.real.dtype)
    nothing = jnp.zeros(0, spectrum.dtype)
    operands = [nothing, nothing, nothing, spectrum, jnp.zeros(0, bool)]
    return call(TO_SPACE, (0,) * 5, operands, [], (height, width), [result])[0]


def _weights(height, width, dtype):
    return column_weights(height, width).astype(jnp.finfo(dtype).dtype)


def _linear(name: str, native: Callable, plain: Callable, shape_of: Callable, transpose: Callable) -> Primitive:
    """A linear primitive of one array whose first axis is the batch."""
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(lambda x, **options: primitive.bind(x, **options), static_argnames=("width",)))
    primitive.def_abstract_eval(lambda x, **options: x.update(**shape_of(x, **options)))
    ad.deflinear2(primitive, lambda ct, x, **options: [transpose(ct, x, **options)])
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(native, multiple_results=False), platform="cpu")

    def batched(arrays, axes, **options):
        x = jnp.moveaxis(arrays[0], axes[0], 0)
        size, rows, *rest = x.shape
        y = primitive.bind(x.reshape(size * rows, *rest), **options)
        return y.reshape(size, rows, *y.shape[1:]), 0

    batching.primitive_batchers[primitive] = batched
    return primitive


def _spectrum_shape(x):
    rows, height, width, channels = x.shape
    return {"shape": (rows, channels, height, width // 2 + 1), "dtype": jnp.result_type(x.dtype, jnp.complex64)}


def _space_shape(spectrum, width):
    rows, channels, height, _ = spectrum.shape
    return {"shape": (rows, height, width, channels), "dtype": jnp.finfo(spectrum.dtype).dtype}


_to_spectrum = _linear(
    "cssm_to_spectrum", _native_to_spectrum, plain_to_spectrum, _spectrum_shape,
    lambda ct, x: to_space(ct.conj() / _weights(x.aval.shape[1], x.aval.shape[2], ct.dtype), x.aval.shape[2]),
)  # fmt: skip
_to_space = _linear(
    "cssm_to_space", _native_to_space, plain_to_space, _space_shape,
    lambda ct, x, width: to_spectrum(ct).conj() * _weights(ct.shape[1], width, ct.dtype),
)  # fmt: skip
