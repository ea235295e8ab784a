"""Colours of pixels of 8 bits, as PIL's ImageOps and ImageEnhance change them: rounding after each operation.

Pixels are planes, uint8 (b, t, c, h, w): a still has t = 1. What is measured (a mean, a histogram) is that of a clip.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cssm.core.typing import Bool, Float, Int, Shaped

Planes = Shaped[Any, "b t c h w"]
Tables = Shaped[Any, "b c 256"]


def planes(x: Shaped[Any, "..."]) -> Planes:
    """(b, [t,] h, w, c) as (b, t, c, h, w).

    >>> planes(jnp.zeros((2, 5, 7, 3), jnp.uint8)).shape
    (2, 1, 3, 5, 7)
    """
    return jnp.moveaxis(x if x.ndim == 5 else x[:, None], -1, 2)


def interleaved(x: Planes, ndim: int) -> Shaped[Any, "..."]:
    """The inverse of `planes`: of stills (ndim 4) or clips (5)."""
    x = jnp.moveaxis(x, 2, -1)
    return x if ndim == 5 else x[:, 0]


def per_row(value: Shaped[Any, "b"]) -> Shaped[Any, "b 1 1 1 1"]:
    """One value for each clip, to be used with its planes."""
    return value[:, None, None, None, None]


def where_any(chosen: Bool[Any, ""], change: Callable[[Planes], Planes], x: Planes) -> Planes:
    """change(x), or x where no clip of the batch has drawn it. A branch that is taken or not: never under `vmap`."""
    return jax.lax.cond(chosen, change, lambda x: x, x)


def grey(x: Planes) -> Shaped[Any, "b t 1 h w"]:
    """Luma of red, green and blue: (299 R + 587 G + 114 B) / 1000, rounded."""
    r, g, b = (x[:, :, i : i + 1].astype(jnp.int32) for i in range(3))
    return ((19595 * r + 38470 * g + 7471 * b + (1 << 15)) >> 16).astype(jnp.uint8)


def mean_grey(x: Planes) -> Float[Any, "b 1 1 1 1"]:
    """The mean luma of each clip, to the nearest whole level."""
    return _mean(grey(x))


def _mean(luma: Shaped[Any, "b t 1 h w"]) -> Float[Any, "b 1 1 1 1"]:
    rows = luma.astype(jnp.int32).sum(-1, keepdims=True).astype(jnp.float32)  # whole numbers: faster, and they fit
    return jnp.floor(rows.mean((1, 2, 3), keepdims=True) / luma.shape[-1] + 0.5)


def blended(base: Any, x: Planes, factor: Any) -> Planes:
    """base + factor (x - base): 0 gives the base, 1 the pixels, above 1 more than they are. Fractions are cut off."""
    base, pixels = jnp.asarray(base, jnp.float32), x.astype(jnp.float32)
    return jnp.clip(base + factor * (pixels - base), 0, 255).astype(jnp.uint8)


def jittered(x: Planes, order: Int[Any, "b 3"], factors: Float[Any, "b 3"]) -> Planes:
    """Brightness (0), contrast (1) and saturation (2), in an order, each by a factor, of each clip."""

    def step(x: Planes, each: tuple[Any, Any]) -> tuple[Planes, None]:
        which, factor = per_row(each[0]), per_row(each[1])
        base = jnp.where(which == 1, mean_grey(x), 0.0)
        base = jnp.where(which == 2, grey(x).astype(jnp.float32), base)
        return blended(base, x, factor), None

    return jax.lax.scan(step, x, (order.T, factors.T))[0]  # a loop: XLA would compute each step again in the next


def draw_jitter(key: jax.Array, rows: int, strength: float) -> tuple[Int[Any, "b 3"], Float[Any, "b 3"]]:
    """A random order of the three, and factors uniform on 1 - strength..1 + strength, not below 0."""
    first, second = jax.random.split(key)
    order = jnp.argsort(jax.random.uniform(first, (rows, 3)), -1)
    return order, jax.random.uniform(second, (rows, 3), minval=max(0.0, 1 - strength), maxval=1 + strength)


def looked_up(x: Planes, tables: Tables) -> Planes:
    """Every pixel's entry in the table of its clip and channel."""
    b, c, _ = tables.shape
    begin = 256 * jnp.arange(b * c).reshape(b, 1, c, 1, 1)
    return jnp.take(tables.reshape(-1), x.astype(jnp.int32) + begin, mode="clip")


def histogram(x: Planes) -> Int[Any, "b c 256"]:
    """How many pixels of each level each channel of a clip has."""
    b, _, c = x.shape[:3]
    bins = x.astype(jnp.int32) + 256 * jnp.arange(b * c).reshape(b, 1, c, 1, 1)
    counts = jnp.zeros(b * c * 256, jnp.int32).at[bins.reshape(-1)].add(1, mode="promise_in_bounds")
    return counts.reshape(b, c, 256)


def autocontrast(counts: Int[Any, "b c 256"]) -> Tables:
    """The darkest level becomes 0, the brightest 255, those between in proportion; one level alone stays."""
    levels = jnp.arange(256)
    low, high = jnp.argmax(counts > 0, -1)[..., None], 255 - jnp.argmax(counts[..., ::-1] > 0, -1)[..., None]
    scale = 255 / jnp.maximum(high - low, 1).astype(jnp.float32)
    stretched = jnp.clip(levels * scale - low * scale, 0, 255)
    return jnp.where(high > low, stretched, levels).astype(jnp.uint8)


def equalised(counts: Int[Any, "b c 256"]) -> Tables:
    """Every level as often as every other, as nearly as can be; the pixels of the brightest level are not counted."""
    last = 255 - jnp.argmax(counts[..., ::-1] > 0, -1)
    brightest = jnp.take_along_axis(counts, last[..., None], -1)
    step = (counts.sum(-1, keepdims=True) - brightest) // 255
    below = jnp.cumsum(counts, -1) - counts
    spread = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, spread, jnp.arange(256)).astype(jnp.uint8)


def solarised(threshold: Any) -> Shaped[Any, "b 1 256"]:
    """Levels from a threshold (b,) on are inverted."""
    levels = jnp.arange(256)
    return jnp.where(levels >= threshold[:, None, None], 255 - levels, levels).astype(jnp.uint8)


def solarise_added(amount: Any) -> Shaped[Any, "b 1 256"]:
    """Levels below 128 become brighter by an amount (b,)."""
    levels = jnp.arange(256)
    added = jnp.minimum(levels + amount[:, None, None], 255)
    return jnp.where(levels < 128, added, levels).astype(jnp.uint8)


def posterised(bits: Int[Any, "b"]) -> Shaped[Any, "b 1 256"]:
    """Only the highest bits of each level are kept."""
    shift = (8 - bits)[:, None, None]
    return (jnp.arange(256) >> shift << shift).astype(jnp.uint8)


def brightened(factor: Any, base: Any) -> Shaped[Any, "b 1 256"]:
    """`blended` with a base (b,) that is one level, as a table: brightness (0) and contrast (the mean luma)."""
    base, factor = base[:, None, None], factor[:, None, None]
    return jnp.clip(base + factor * (jnp.arange(256) - base), 0, 255).astype(jnp.uint8)
