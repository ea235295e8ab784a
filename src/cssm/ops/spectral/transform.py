"""Between space and spectrum: real FFTs of channels-last frames, and kernels as spectra on any grid."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from cssm.core.errors import UsageError
from cssm.core.typing import Complex, Float, Grid
from cssm.shared.spectral import column_weights, transform_tables

from . import native_transform
from .native_call import why_not_picked
from .native_transform import plain_to_space, plain_to_spectrum


def to_spectrum(x: Float[Any, "*lead h w c"]) -> Complex[Array, "*lead c h wf"]:
    """rfft2 over height and width, channels moved to the front: "... h w c" -> "... c h wf"."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    pairs = math.prod(x.shape[:-3]) * x.shape[-1]
    if x.ndim < 3 or 0 in x.shape or why_not_picked(x.shape[-3], x.shape[-2], pairs, x.dtype):
        return plain_to_spectrum(x)
    y = native_transform.to_spectrum(x.reshape(-1, *x.shape[-3:]))
    return y.reshape(*x.shape[:-3], *y.shape[1:])


def to_space(spectrum: Complex[Any, "*lead c h wf"], width: int) -> Float[Array, "*lead h w c"]:
    """Inverse of `to_spectrum`: "... c h wf" -> "... h w c"."""
    pairs = math.prod(spectrum.shape[:-2])
    if spectrum.ndim < 3 or 0 in spectrum.shape or why_not_picked(spectrum.shape[-2], width, pairs, spectrum.dtype):
        return plain_to_space(spectrum, width)
    y = native_transform.to_space(spectrum.reshape(-1, *spectrum.shape[-3:]), width)
    return y.reshape(*spectrum.shape[:-3], *y.shape[1:])


def adjoint_weight(height: int, width: int, dtype: Any) -> np.ndarray:
    """(Wf,), real: see `cssm.shared.spectral.column_weights`."""
    return column_weights(height, width).astype(jnp.finfo(dtype).dtype)


def kernel_spectrum(k: Float[Any, "*lead kh kw"], grid: Grid, *, origin: str = "center") -> Complex[Any, "*lead h wf"]:
    """Spectrum of a spatial kernel on a periodic grid: multiplying by it convolves circularly with k.

    K[u, v] = sum_ij k[i, j] exp(-2 pi i (u (i - o_h) / H + v (j - o_w) / W)), with o the origin tap. Written as two
    small matrix products, so that a kernel larger than the grid is folded (summed modulo H, W), never cropped.

    Args:
      k: kernels, real, (..., Kh, Kw).
      grid: (H, W) in pixels.
      origin: "center" puts tap K // 2 on pixel (0, 0); "corner" reproduces the reference code, which pads the
        kernel centred without a shift, so that every application also moves the field by half an image; no larger
        than the grid there, since the reference code crops.

    Returns:
      (..., H, W // 2 + 1) complex64 (complex128 for a float64 kernel).

    Raises:
      UsageError: an unknown origin. ShapeError: a kernel without two spatial axes, an empty grid, or origin "corner"
        for a kernel larger than the grid.

    Source: docs/math.md section 0.

    >>> import jax.numpy as jnp
    >>> kernel_spectrum(jnp.zeros((3, 3)).at[1, 1].set(1.0), (4, 4)).real.min().item()
    1.0
    """
    k = jnp.asarray(k)
    dtype = jnp.promote_types(k.dtype, jnp.complex64)
    rows, columns = (table.astype(dtype) for table in transform_tables(k.shape, grid, origin))
    return jnp.einsum("ui,...ij,vj->...uv", rows, k.astype(dtype), columns, precision="highest")


def stable_spectrum(z: Complex[Any, "..."], rho: float = 0.999) -> Complex[Any, "..."]:
    """Squash a spectrum into the open disc of radius rho: rho z / (1 + |z|). Keeps the phase; gradient at 0 is rho.

    Any recurrence S_t = K S_{t-1} + u_t with this K stays bounded by max|u| / (1 - rho).
    Source: docs/math.md section 0.

    Raises:
      UsageError: rho outside (0, 1].

    >>> import jax.numpy as jnp
    >>> bool(abs(stable_spectrum(jnp.complex64(1e6 + 1e6j))) < 0.999)
    True
    """
    if not 0 < rho <= 1:
        raise UsageError(f"stable_spectrum: rho must lie in (0, 1], got {rho}")
    return rho * z / (1 + jnp.abs(z))
