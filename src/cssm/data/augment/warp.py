"""Affine warps of planes (b, t, c, h, w) of 8 bits, as PIL's Image.transform with bilinear interpolation.

A matrix (b, 6) says where each pixel of the result comes from, x' = a x + b y + c and y' = d x + e y + f, in px with
centres at +.5. PIL's own default, the nearest pixel, is not what published recipes train with.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cssm.core.typing import Float

from .colour import Planes

FILL = 128  # of what comes from outside
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def rotation(degrees: Float[Any, "b"], size: tuple[int, int]) -> Float[Any, "b 6"]:
    """Counter-clockwise about the middle of (height, width)."""
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    y, x = size[0] / 2, size[1] / 2
    return jnp.stack([cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y], -1)


def shear_x(amount: Float[Any, "b"]) -> Float[Any, "b 6"]:
    """x' = x + amount y."""
    return jnp.tile(jnp.array(IDENTITY), (len(amount), 1)).at[:, 1].set(amount)


def shear_y(amount: Float[Any, "b"]) -> Float[Any, "b 6"]:
    """y' = y + amount x."""
    return jnp.tile(jnp.array(IDENTITY), (len(amount), 1)).at[:, 3].set(amount)


def move_x(pixels: Float[Any, "b"]) -> Float[Any, "b 6"]:
    """x' = x + pixels."""
    return jnp.tile(jnp.array(IDENTITY), (len(pixels), 1)).at[:, 2].set(pixels)


def move_y(pixels: Float[Any, "b"]) -> Float[Any, "b 6"]:
    """y' = y + pixels."""
    return jnp.tile(jnp.array(IDENTITY), (len(pixels), 1)).at[:, 5].set(pixels)


def warped(x: Planes, matrix: Float[Any, "b 6"]) -> Planes:
    """Each clip through its matrix; grey of level 128 comes in from outside. The identity changes nothing."""
    return jax.vmap(_warped)(x, matrix)


def _warped(clip: Any, matrix: Any) -> Any:
    """(t, c, h, w) through one matrix (6,)."""
    h, w = clip.shape[2:]
    y, x = jnp.arange(h)[:, None] + 0.5, jnp.arange(w) + 0.5
    a, b, c, d, e, f = matrix
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    inside = (from_x >= 0) & (from_x < w) & (from_y >= 0) & (from_y < h)
    left, top = jnp.floor(from_x - 0.5), jnp.floor(from_y - 0.5)
    right_share, low_share = from_x - 0.5 - left, from_y - 0.5 - top
    pixels = clip.reshape(*clip.shape[:2], h * w)

    def at(dy: int, dx: int) -> Any:
        row, column = jnp.clip(top + dy, 0, h - 1), jnp.clip(left + dx, 0, w - 1)
        place = (row * w + column).astype(jnp.int32)
        return jnp.take(pixels, place, axis=2, mode="clip").astype(jnp.float32)

    upper = at(0, 0) + right_share * (at(0, 1) - at(0, 0))
    lower = at(1, 0) + right_share * (at(1, 1) - at(1, 0))
    mixed = upper + low_share * (lower - upper)
    return jnp.where(inside, mixed, FILL).astype(jnp.uint8)  # fractions are cut off, as PIL has it
