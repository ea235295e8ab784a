"""Large-kernel depthwise convolution of signals, images and video, channels last."""

from math import prod
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from cssm.core.typing import Float
from cssm.shared.fft_plan import SPATIAL_STRATEGIES, choose_spatial_strategy, reach, spatial_lengths
from cssm.shared.fft_shapes import check_direct, check_real, check_spatial, check_strategy

from ..cell import filtered, why_plain
from ..spectral.transform import kernel_spectrum
from .ssm import real_precision
from .strategies import over_batch


def fft_conv2d(
    x: Annotated[ArrayLike, "b h w c"],
    kernel: Annotated[ArrayLike, "c kh kw"],
    *,
    boundary: str = "zero",
    strategy: str | None = None,
) -> Float[Array, "b h w c"]:
    """`fft_conv_nd` of images: x (B, H, W, C) and kernel (C, Kh, Kw) give (B, H, W, C). Arguments and errors as there.

    >>> import jax.numpy as jnp
    >>> fft_conv2d(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 3, 3)))[0, :, :, 0].round(4).tolist()
    [[4.0, 4.0], [4.0, 4.0]]
    """
    check_spatial("fft_conv2d", jnp.shape(x), jnp.shape(kernel), boundary, axes=2)
    return fft_conv_nd(x, kernel, boundary=boundary, strategy=strategy)


def fft_conv_nd(
    x: Annotated[ArrayLike, "b *grid c"],
    kernel: Annotated[ArrayLike, "c *taps"],
    *,
    boundary: str = "zero",
    strategy: str | None = None,
) -> Float[Array, "b *grid c"]:
    """Convolve every channel with a kernel of its own, of any size; the output has the size of x.

    Equivalent to::

        y[b, p, c] = sum_q kernel[c, q] x[b, p - (q - K // 2), c]      p, q: one index per grid axis

    a true convolution whose origin is the middle tap K // 2, as in `kernel_spectrum`. lax.conv and torch conv2d, which
    correlate, give the same numbers for the kernel flipped along its taps, with padding (K - 1 - K // 2, K // 2).

    Args:
      x: (B, L, C), (B, H, W, C) or (B, T, H, W, C), real.
      kernel: (C, *K), one size per grid axis, odd or even, smaller or larger than the grid.
      boundary: "zero" (outside the grid x is 0), or "circular" (x repeats; a larger kernel is folded).
      strategy: "fft", "direct" (lax.conv_general_dilated), or None to pick the fastest by the number of taps: on CPU
        the measured crossover, elsewhere direct up to 31 x 31 taps, which is not measured.

    Returns:
      x's shape and dtype; computed in float32, or float64 where an argument is.

    Raises:
      ShapeError: shapes that do not fit, a dtype that is not real floating, or strategy="direct" for a circular kernel
        longer than the grid.
      UsageError: an unknown boundary or strategy.

    Source: docs/math.md sections 0 and 5.

    >>> import jax.numpy as jnp
    >>> fft_conv_nd(jnp.ones((1, 4, 1)), jnp.array([[1.0, 1.0, 0.0]]))[0, :, 0].round(4).tolist()
    [2.0, 2.0, 2.0, 1.0]
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    check_real("fft_conv_nd", x=x.dtype, kernel=kernel.dtype)
    check_spatial("fft_conv_nd", x.shape, kernel.shape, boundary)
    check_strategy("fft_conv_nd", strategy, SPATIAL_STRATEGIES)
    if strategy is None:
        batch, *grid, channels = x.shape
        on_cpu = jax.default_backend() == "cpu"
        rates = "jax compiled" if _compiles(x, kernel, boundary) else "jax"
        strategy = choose_spatial_strategy(rates, batch, grid, channels, kernel.shape[1:], boundary, on_cpu=on_cpu)
    if strategy == "direct":
        check_direct("fft_conv_nd", x.shape, kernel.shape, boundary)
    precision = real_precision(x, kernel)
    convolve = {"fft": _fft, "direct": _direct}[strategy]
    return convolve(x.astype(precision), kernel.astype(precision), boundary).astype(x.dtype)


def _fft(x, kernel, boundary):
    grid = x.shape[1:-1]
    axes = tuple(range(1, x.ndim - 1))
    lengths = spatial_lengths(grid, kernel.shape[1:], boundary)
    inside = tuple(slice(n) for n in grid)
    if _compiles(x, kernel, boundary):
        reached = (reach(n, k)[:2] == (0, k) for n, k in zip(grid, kernel.shape[1:], strict=True))
        whole = boundary == "circular" or all(reached)
        if whole:
            return _compiled(x, kernel_spectrum(kernel, (lengths[0], lengths[1])), lengths)[:, *inside]
        return _compiled(x, jnp.fft.rfftn(_place(kernel, grid, lengths, boundary), axes=axes), lengths)[:, *inside]
    spectrum = jnp.fft.rfftn(_place(kernel, grid, lengths, boundary), axes=axes)

    def convolve(frame):
        image = jnp.fft.rfftn(jnp.moveaxis(frame, -1, 0), s=lengths, axes=axes)
        return jnp.moveaxis(jnp.fft.irfftn(image * spectrum, s=lengths, axes=axes)[:, *inside], 0, -1)

    return over_batch(convolve, x, x.shape[-1] * prod(lengths) // 2)


def _compiles(x, kernel, boundary) -> bool:
    """Whether the compiled kernel is picked: images, and what it wants of them."""
    lengths = spatial_lengths(x.shape[1:-1], kernel.shape[1:], boundary)
    return len(lengths) == 2 and why_plain(*lengths, x.shape[-1], real_precision(x, kernel)) is None


def _compiled(x, spectrum, lengths):
    """Frames filled up to `lengths` with zeros, convolved by the compiled cell, which reads and writes them once."""
    around = [(0, length - n) for n, length in zip(x.shape[1:-1], lengths, strict=True)]
    return filtered(jnp.pad(x, [(0, 0), *around, (0, 0)])[:, None], spectrum)[:, 0]


def _place(kernel, grid, lengths, boundary):
    """The kernel on the grid of the transform, folded, its middle tap on the first point."""
    for axis, (n, length) in enumerate(zip(grid, lengths, strict=True), 1):
        taps = kernel.shape[axis]
        first, stop, centre = reach(n, taps) if boundary == "zero" else (0, taps, taps // 2)
        kernel = jnp.moveaxis(lax.slice_in_dim(kernel, first, stop, axis=axis), axis, -1)
        kernel = jnp.pad(kernel, [(0, 0)] * (kernel.ndim - 1) + [(0, (first - stop) % length)])
        kernel = kernel.reshape(*kernel.shape[:-1], -1, length).sum(-2)
        kernel = jnp.moveaxis(jnp.roll(kernel, -centre, -1), -1, axis)
    return kernel


def _direct(x, kernel, boundary):
    margins = [(k - 1 - k // 2, k // 2) for k in kernel.shape[1:]]
    if boundary == "circular":
        x, margins = jnp.pad(x, [(0, 0), *margins, (0, 0)], mode="wrap"), [(0, 0)] * len(margins)
    weight = jnp.moveaxis(jnp.flip(kernel, tuple(range(1, kernel.ndim))), 0, -1)[..., None, :]
    letters = "DHW"[-len(margins) :]
    layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_general_dilated(
        x, weight, (1,) * len(margins), margins, dimension_numbers=layout, feature_group_count=x.shape[-1],
        precision="highest",
    )  # fmt: skip
