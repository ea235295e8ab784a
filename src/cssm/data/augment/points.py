"""Points that follow their pixels."""

from typing import Any

import jax.numpy as jnp

from .protocol import Arrays


def flipped_points(flips: Any, batch: Arrays, width: int) -> dict[str, Any]:
    """The points of a batch in frames `width` px wide, those of rows with flips (b,) True turned left to right.

    markers (b, n, 2) (y, x), tracks (b, n, t, 2) (x, y) and query_points (b, n, 3) (t, y, x), those that there are.

    >>> flipped_points(jnp.array([True]), {"markers": jnp.array([[[1.5, 0.5]]])}, 4)["markers"].tolist()
    [[[1.5, 3.5]]]
    """
    out = {}
    for name, place in (("markers", 1), ("tracks", 0), ("query_points", 2)):
        if name in batch:
            points = jnp.asarray(batch[name])
            x = points[..., place]
            turned = jnp.where(flips.reshape(-1, *[1] * (x.ndim - 1)), width - x, x)
            out[name] = points.at[..., place].set(turned)
    return out
