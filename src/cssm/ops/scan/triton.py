"""The Triton decay scan, launched through jax-triton. Imported only for implementation="triton"."""

from typing import Any

import jax
import jax.numpy as jnp

from cssm.core.errors import UsageError
from cssm.core.typing import Float


def load():
    """(the kernels, jax_triton.triton_call), or an error that says what is missing."""
    try:
        import triton as _  # noqa: F401
    except ImportError as error:
        raise UsageError("implementation='triton' needs the triton package: pip install 'cssm[triton]'") from error
    if jax.default_backend() != "gpu":
        raise UsageError(
            f"implementation='triton' needs a GPU, and JAX runs on {jax.default_backend()}: pip install 'cssm[cuda]' "
            "on a machine that has one, or use 'sequential'"
        )
    try:
        from jax_triton import triton_call  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            f"implementation='triton' needs a jax-triton that fits jax {jax.__version__}; its import says: {error}. "
            "pip install 'cssm[triton]', or use 'associative'"
        ) from error
    from cssm.kernels import decay_scan

    return decay_scan, triton_call


def processors() -> int:
    return getattr(jax.devices()[0], "core_count", None) or 132


def forward(log_a: Float[Any, "b t r"], x: Float[Any, "b t r c"], h0: Float[Any, "b r c"]) -> Float[Any, "b t r c"]:
    """out (B,T,R,C) in x's dtype; h0 in the carry's dtype."""
    kernels, call = load()
    if x.size == 0:
        return x
    geometry = kernels.plan(x.shape, processors())
    sizes, options = (*x.shape[1:], geometry.chunk), {"grid": geometry.grid, **geometry.launch()}
    carries = _carries(x, h0, geometry)
    if geometry.chunks > 1:
        carries = call(log_a, x, *sizes, kernel=kernels.forward_ends_kernel, out_shape=_like(*carries), **options)
    return call(
        log_a, x, h0, *carries, *sizes, kernel=kernels.forward_kernel, out_shape=_like(x)[0], HAS_H0=True, **options
    )


def backward(
    log_a: Float[Any, "b t r"], h: Float[Any, "b t r c"], h0: Float[Any, "b r c"], g: Float[Any, "b t r c"]
) -> tuple[Float[Any, "b t r"], Float[Any, "b t r c"], Float[Any, "b r c"]]:
    """dlog_a, dx, dh0, in the dtypes of log_a, h and h0."""
    kernels, call = load()
    if h.size == 0:
        return jnp.zeros_like(log_a), h, jnp.zeros_like(h0)
    geometry = kernels.plan(h.shape, processors())
    sizes, options = (*h.shape[1:], geometry.chunk), {"grid": geometry.grid, **geometry.launch(backward=True)}
    carries = _carries(h, h0, geometry)
    if geometry.chunks > 1:
        carries = call(log_a, g, *sizes, kernel=kernels.backward_ends_kernel, out_shape=_like(*carries), **options)
    partial = jax.ShapeDtypeStruct((geometry.blocks, *log_a.shape), h0.dtype)
    partial, dx, dh0 = call(
        log_a, g, h, h0, *carries, *sizes, kernel=kernels.backward_kernel, out_shape=(partial, *_like(h, h0)),
        HAS_H0=True, **options,
    )  # fmt: skip
    return partial.sum(0).astype(log_a.dtype), dx, dh0


def _carries(x, h0, geometry):
    """ends and products: zeros of one element where time is not split (then only their dtype is read)."""
    if geometry.chunks == 1:
        return jnp.zeros((1,), h0.dtype), jnp.zeros((1,), jnp.int32)
    shape = (geometry.chunks, geometry.rows)
    return jax.ShapeDtypeStruct((*shape, x.shape[3]), h0.dtype), jax.ShapeDtypeStruct((*shape, 2), jnp.int32)


def _like(*arrays):
    return tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)
