"""Filters of planes (b, t, c, h, w) of 8 bits, as PIL's ImageFilter: Gaussian blur and the smoothing of sharpness."""

from typing import Any

import jax.numpy as jnp

from cssm.core.typing import Float

from .colour import Planes

REACH = 6  # px: three boxes of radius 2 at most
LARGEST = 2.0  # standard deviation


def blur_taps(sigma: Float[Any, "b"]) -> Float[Any, "b 13"]:
    """The kernel along an axis: three boxes whose ends weigh less, of variance sigma^2 together; sigma up to 2 px.

    A box of radius l has weights 1, its ends a; its variance ((2l+1) l(l+1)/3 + 2a(l+1)^2) / (2l+1+2a) is sigma^2 / 3.

    >>> taps = blur_taps(jnp.array([0.0, 1.5]))
    >>> taps[0, 6].item(), round(float((taps[1] * (jnp.arange(13) - 6) ** 2).sum()), 4)
    (1.0, 2.25)
    """
    variance = (sigma**2 / 3)[:, None]
    radius = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    width = 2 * radius + 1
    end = width * (variance - radius * (radius + 1) / 3) / (2 * ((radius + 1) ** 2 - variance))
    place = jnp.abs(jnp.arange(-2, 3))
    box = jnp.where(place <= radius, 1.0, jnp.where(place == radius + 1, end, 0.0)) / (width + 2 * end)
    return _convolved(_convolved(box, box), box)


def _convolved(a: Float[Any, "b i"], b: Float[Any, "b o"]) -> Float[Any, "b l"]:
    """The full convolution of each row of a with that of b."""
    more = a.shape[-1] - 1
    padded = jnp.pad(b, [(0, 0), (more, more)])
    size = b.shape[-1] + more
    return sum(a[:, k, None] * padded[:, more - k : more - k + size] for k in range(more + 1))  # type: ignore[return-value]


def gaussian_blur(x: Planes, sigma: Float[Any, "b"]) -> Planes:
    """Each clip blurred by a standard deviation, 0 (as it is) to 2 px; its border goes on outside."""
    taps = blur_taps(sigma)[:, :, None, None, None, None]
    y = x.astype(jnp.float32)
    for axis in (3, 4):
        around = [(0, 0)] * 5
        around[axis] = (REACH, REACH)
        padded, size = jnp.pad(y, around, mode="edge"), x.shape[axis]
        window = [slice(None)] * 5
        y = jnp.zeros(())
        for k in range(2 * REACH + 1):
            window[axis] = slice(k, k + size)
            y = y + taps[:, k] * padded[tuple(window)]
    return jnp.floor(y + 0.5).astype(jnp.uint8)


def smoothed(x: Planes) -> Planes:
    """The mean of 3 x 3 pixels, the middle one five times; pixels at the border stay."""
    h, w = x.shape[3:]
    if min(h, w) < 3:
        return x
    y = x.astype(jnp.int32)
    total = sum(y[..., i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3))
    inner = (total + 4 * y[..., 1:-1, 1:-1] + 6) // 13  # to the nearest: 6.5 cannot be
    return x.at[..., 1:-1, 1:-1].set(inner.astype(jnp.uint8))
