"""What happens to the pixels of each clip of a batch: drawn first, then carried out.

On one CPU the clips are taken one after the other: each stays in the cache, and what it has not drawn is not computed.
Elsewhere, and where the rows are divided over devices, the whole batch goes through every operation that any of its
clips has drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from . import colour
from . import crop as crops
from .policies import RandAugment
from .rand_augment import Layer, draw_layer, rand_augment
from .three import draw_three, three


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Draws:
    """Of each clip, with a leading axis b; None for what there is none of.

    size: (height, width) px to which boxes are resized. increasing: of the layers' magnitudes.
    """

    flips: jax.Array
    """(b,) bool."""
    boxes: jax.Array | None
    """(b, 4) of `draw_boxes`."""
    three: tuple[jax.Array, jax.Array] | None
    """Of `draw_three`."""
    layers: tuple[Layer, ...]
    """Of `draw_layer`."""
    jitter: tuple[jax.Array, jax.Array] | None
    """Of `draw_jitter`."""
    size: tuple[int, int] = field(metadata={"static": True})
    increasing: bool = field(default=True, metadata={"static": True})

    def applied(self, x: jax.Array) -> jax.Array:
        """Pixels (b, [t,] h, w, c) with all of it done."""
        if self.boxes is None and not self.layers and self.three is None and self.jitter is None:
            return _flipped(x, self.flips)
        return by_clip(_carried_out, self, x)


def draw(
    key: jax.Array,
    rows: int,
    size: tuple[int, int],
    *,
    flip: float,
    crop: tuple[tuple[float, float], tuple[int, int]] | None,
    policy: RandAugment | str,
    jitter: float,
) -> Draws:
    """Draws for so many clips of (height, width) px. crop: least and largest share of the area, and the size
    of the result."""

    keys = jax.random.split(key, 4)
    random = policy if isinstance(policy, RandAugment) else None
    layers = () if random is None else jax.random.split(keys[2], random.layers)
    return Draws(
        flips=jax.random.bernoulli(keys[0], flip, (rows,)),
        boxes=None if crop is None else crops.draw_boxes(keys[1], rows, size, crop[0]),
        three=draw_three(keys[2], rows) if policy == "three" else None,
        layers=() if random is None else tuple(draw_layer(k, rows, random) for k in layers),
        jitter=colour.draw_jitter(keys[3], rows, jitter) if jitter else None,
        size=size if crop is None else crop[1],
        increasing=random is not None and random.increasing,
    )


def by_clip(function: Callable[..., Any], draws: Draws, x: jax.Array) -> jax.Array:
    """function(draws, x) of a batch: clip after clip on one CPU, all at once elsewhere."""
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return function(draws, x)
    return jax.lax.map(lambda one: function(*jax.tree.map(lambda leaf: leaf[None], one))[0], (draws, x))


def _flipped(x: jax.Array, flips: jax.Array) -> jax.Array:
    return jnp.where(flips.reshape(-1, *[1] * (x.ndim - 1)), x[..., ::-1, :], x)


def _carried_out(draws: Draws, x: jax.Array) -> jax.Array:
    """In the order of a crop, a flip, the policy, the jitter."""
    if draws.boxes is None:
        y = colour.planes(_flipped(x, draws.flips))
    else:
        y = crops.resized_crops(x if x.ndim == 5 else x[:, None], draws.boxes, draws.size, draws.flips)
    if draws.three is not None:
        y = three(y, *draws.three)
    if draws.layers:
        y = rand_augment(y, draws.layers, draws.increasing)
    if draws.jitter is not None:
        y = colour.jittered(y, *draws.jitter)
    return colour.interleaved(y, x.ndim)
