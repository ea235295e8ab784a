"""Features at places between cells: bilinear samples and patches of feature maps.

Places are (x, y) in cells of the map, cell centres at +.5; outside the map its border goes on. `maps` says on which of
the maps each place is.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cssm.core.typing import Float, Int


def sample(features: Float[Any, "b h w c"], maps: Int[Any, "n"], places: Float[Any, "n 2"]) -> Float[Any, "n c"]:
    """The features at places, between the four nearest cells.

    >>> ramp = jnp.arange(4.0).reshape(1, 1, 4, 1)  # cell centres at x = .5, 1.5, 2.5, 3.5
    >>> sample(ramp, jnp.zeros(3, int), jnp.array([[1.5, 0.5], [2.0, 0.5], [9.0, 0.5]])).ravel().tolist()
    [1.0, 1.5, 3.0]
    """
    return patches(features, maps, places, 0)[:, 0, 0]


def patches(
    features: Float[Any, "b h w c"], maps: Int[Any, "n"], places: Float[Any, "n 2"], radius: int
) -> Float[Any, "n k k c"]:
    """Patches of k x k samples, k = 2 radius + 1, one cell apart, about places.

    >>> ramp = jnp.arange(4.0).reshape(1, 1, 4, 1)
    >>> patches(ramp, jnp.zeros(1, int), jnp.array([[1.75, 0.5]]), 1)[0, 1].ravel().tolist()
    [0.25, 1.25, 2.25]
    """
    size, border = 2 * radius + 2, radius + 1
    height, width, channels = features.shape[1:]
    padded = jnp.pad(features, [(0, 0), (border, border), (border, border), (0, 0)], mode="edge")
    inside = jnp.clip(places - 0.5, 0, jnp.array([width - 1, height - 1], places.dtype))
    low = jnp.floor(inside)
    part = (inside - low)[:, None, None, :, None]
    corner = low.astype(jnp.int32) + 1  # border - radius

    def one(row, x, y):
        return jax.lax.dynamic_slice(padded, (row, y, x, 0), (1, size, size, channels))[0]

    found = jax.vmap(one)(maps.astype(jnp.int32), corner[:, 0], corner[:, 1])
    x, y = part[..., 0, :], part[..., 1, :]
    across = found[:, :, :-1] + x * (found[:, :, 1:] - found[:, :, :-1])
    return across[:, :-1] + y * (across[:, 1:] - across[:, :-1])
