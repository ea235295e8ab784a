"""RandAugment: operations drawn for each clip, every one a table, a blend or a warp, so that a batch needs no branches.

In each layer a clip carries one table per channel, one factor of saturation or sharpness and one affine matrix: those
of its operation, and the identity elsewhere. To choose among branches under `vmap` would compute all of them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cssm.core.typing import Bool, Float, Int

from . import colour, warp
from .colour import Planes, per_row, where_any
from .filters import smoothed
from .policies import RandAugment

OPERATIONS = (
    "autocontrast", "equalise", "invert", "rotate", "posterise", "solarise", "solarise_add", "saturation", "contrast",
    "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
CHANCE = 0.5  # that a drawn operation is carried out
ROTATE, SHEAR, TRANSLATE, ADD, ENHANCE = 30.0, 0.3, 0.45, 110.0, 0.9  # at magnitude 10: degrees, -, of the side, -, -
TABLES = (
    "autocontrast", "equalise", "invert", "posterise", "solarise", "solarise_add", "contrast", "brightness",
)  # fmt: skip
BLENDS = "saturation", "sharpness"
WARPS = "rotate", "shear_x", "shear_y", "translate_x", "translate_y"
PLACE = {name: i for i, name in enumerate(OPERATIONS)}


class Layer(NamedTuple):
    """One operation of each clip: its place in `OPERATIONS` (-1 for none), its magnitude 0..10, its sign."""

    operation: Int[Any, "b"]
    magnitude: Float[Any, "b"]
    negative: Bool[Any, "b"]


def draw_layer(key: jax.Array, rows: int, policy: RandAugment) -> Layer:
    """The operations uniform over all of them, each carried out with probability 1/2."""
    keys = jax.random.split(key, 4)
    operation = jax.random.randint(keys[0], (rows,), 0, len(OPERATIONS))
    magnitude = policy.magnitude + policy.deviation * jax.random.normal(keys[1], (rows,))
    done = jax.random.bernoulli(keys[2], CHANCE, (rows,))
    negative = jax.random.bernoulli(keys[3], 0.5, (rows,))
    return Layer(jnp.where(done, operation, -1), jnp.clip(magnitude, 0, 10), negative)


def rand_augment(x: Planes, layers: tuple[Layer, ...], increasing: bool) -> Planes:
    """The clips after all layers."""
    for layer in layers:
        x = applied(x, layer, increasing)
    return x


def applied(x: Planes, layer: Layer, increasing: bool) -> Planes:
    """The clips after one layer. What no clip of the batch has drawn is left out."""
    x = where_any(_any(layer, TABLES), lambda x: colour.looked_up(x, _tables(x, layer, increasing)), x)
    x = where_any(_any(layer, BLENDS), lambda x: _blended(x, layer, increasing), x)
    return where_any(_any(layer, WARPS), lambda x: warp.warped(x, _matrix(layer, x.shape[3:])), x)


def _blended(x: Planes, layer: Layer, increasing: bool) -> Planes:
    """Saturation and sharpness: the pixels and their luma or their smoothed selves, apart or together."""
    sharp, saturated = _is(layer, "sharpness"), _is(layer, "saturation")
    base = jnp.where(per_row(sharp), smoothed(x), colour.grey(x))
    factor = jnp.where(sharp | saturated, enhanced(layer, increasing), 1.0)  # 1: as it is
    return colour.blended(base, x, per_row(factor))


def enhanced(layer: Layer, increasing: bool) -> Float[Any, "b"]:
    """The factor of saturation, contrast, brightness and sharpness: 1 +- .9 m / 10, or .1 + 1.8 m / 10."""
    change = ENHANCE * layer.magnitude / 10
    return 1 + jnp.where(layer.negative, -change, change) if increasing else 1 - ENHANCE + 2 * change


def _is(layer: Layer, name: str) -> Bool[Any, "b"]:
    return layer.operation == PLACE[name]


def _any(layer: Layer, names: tuple[str, ...]) -> Bool[Any, ""]:
    return jnp.isin(layer.operation, jnp.array([PLACE[name] for name in names])).any()


def _tables(x: Planes, layer: Layer, increasing: bool) -> colour.Tables:
    """The table of each clip and channel (b, c, 256)."""
    share, zero = layer.magnitude / 10, jnp.zeros(len(x))
    counts = _counted(x, layer)
    bits, threshold = jnp.trunc(share * 4).astype(jnp.int32), jnp.trunc(share * 256)
    factor, mean = enhanced(layer, increasing), colour.mean_grey(x).reshape(-1)
    tables = {
        "autocontrast": colour.autocontrast(counts),
        "equalise": colour.equalised(counts),
        "invert": colour.solarised(zero),
        "posterise": colour.posterised(jnp.maximum(4 - bits if increasing else bits, 1)),
        "solarise": colour.solarised(256 - threshold if increasing else threshold),
        "solarise_add": colour.solarise_added(jnp.trunc(share * ADD)),
        "contrast": colour.brightened(factor, mean),
        "brightness": colour.brightened(factor, zero),
    }
    chosen = [_is(layer, name)[:, None, None] for name in tables]
    return jnp.select(chosen, list(tables.values()), jnp.arange(256, dtype=jnp.uint8))


def _counted(x: Planes, layer: Layer) -> Int[Any, "b c 256"]:
    """The histogram of each channel of a clip, zero where no clip needs it."""
    none = jnp.zeros((len(x), x.shape[2], 256), jnp.int32)
    return jax.lax.cond(_any(layer, ("autocontrast", "equalise")), colour.histogram, lambda x: none, x)


def _matrix(layer: Layer, size: tuple[int, ...]) -> Float[Any, "b 6"]:
    """Where the pixels of each clip of (height, width) come from."""
    share = jnp.where(layer.negative, -layer.magnitude, layer.magnitude) / 10
    matrices = {
        "rotate": warp.rotation(share * ROTATE, (size[0], size[1])),
        "shear_x": warp.shear_x(share * SHEAR),
        "shear_y": warp.shear_y(share * SHEAR),
        "translate_x": warp.move_x(share * TRANSLATE * size[1]),
        "translate_y": warp.move_y(share * TRANSLATE * size[0]),
    }
    chosen = [_is(layer, name)[:, None] for name in matrices]
    return jnp.select(chosen, list(matrices.values()), jnp.array(warp.IDENTITY))
