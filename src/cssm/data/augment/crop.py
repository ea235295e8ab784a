"""Random crops resized by bicubic interpolation, as PIL's Image.resize(box=...): two products with banded matrices."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from cssm.core.typing import Bool, Int, Shaped

RATIOS = (3 / 4, 4 / 3)  # width to height
TRIES = 10
EXACT = jax.lax.Precision.HIGHEST  # short floats would be off by a level
BLOCK = 32  # rows of the result that share a window of the pixels


def draw_boxes(key: jax.Array, rows: int, size: tuple[int, int], scale: tuple[float, float]) -> Int[Any, "b 4"]:
    """(top, left, height, width) px of crops of (height, width).

    The share of the area is uniform on `scale`, the logarithm of width / height on log 3/4..log 4/3. The first of ten
    tries that fits is taken; where none does, the largest box in the middle of an aspect in that range.
    """
    h, w = size
    keys = jax.random.split(key, 3)
    area = h * w * jax.random.uniform(keys[0], (rows, TRIES), minval=scale[0], maxval=scale[1])
    low, high = map(math.log, RATIOS)
    ratio = jnp.exp(jax.random.uniform(keys[1], (rows, TRIES), minval=low, maxval=high))
    heights, widths = jnp.round(jnp.sqrt(area / ratio)), jnp.round(jnp.sqrt(area * ratio))
    fits = (heights >= 1) & (heights <= h) & (widths >= 1) & (widths <= w)
    first = jnp.argmax(fits, -1)[:, None]
    height, width = (jnp.take_along_axis(v, first, 1)[:, 0] for v in (heights, widths))
    whole_h, whole_w = min(h, round(w / RATIOS[0])), min(w, round(h * RATIOS[1]))
    found = fits.any(-1)
    height, width = jnp.where(found, height, whole_h), jnp.where(found, width, whole_w)
    place = jax.random.uniform(keys[2], (rows, 2))
    top = jnp.where(found, jnp.floor(place[:, 0] * (h - height + 1)), (h - whole_h) // 2)
    left = jnp.where(found, jnp.floor(place[:, 1] * (w - width + 1)), (w - whole_w) // 2)
    return jnp.stack([top, left, height, width], -1).astype(jnp.int32)


def resized_crops(
    x: Shaped[Any, "b t h w c"], boxes: Any, size: tuple[int, int], flips: Bool[Any, "b"]
) -> Shaped[Any, "b t c height width"]:
    """The boxes (b, 4) of clips of 8 bits, as planes of (height, width) px; those with flips left to right."""
    b, t, h, w, c = x.shape
    upright = jnp.zeros(b, bool)
    rows = _windows(boxes[:, 0], boxes[:, 2], upright, h, size[0])
    columns = _windows(boxes[:, 1], boxes[:, 3], flips, w, size[1])
    tall = jax.vmap(_along_rows)(x.reshape(b, t, h, w * c), *rows)[:, :, : size[0]]  # b t height (w c)
    turned = jnp.moveaxis(tall.reshape(b, t, size[0], w, c), -1, 2)  # b t c height w
    y = jax.vmap(_along_columns)(turned.reshape(b, t * c * size[0], w), *columns)[..., : size[1]]
    return jnp.clip(jnp.floor(y.reshape(b, t, c, *size) + 0.5), 0, 255).astype(jnp.uint8)


def cubic(x: Any) -> Any:
    """Keys' cubic convolution with a = -1/2.

    >>> [round(float(cubic(jnp.array(x))), 4) for x in (0.0, 0.5, 1.5, 2.0)]
    [1.0, 0.5625, -0.0625, 0.0]
    """
    x = jnp.abs(x)
    near, far = (1.5 * x - 2.5) * x**2 + 1, -0.5 * (x - 1) * (x - 2) ** 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _windows(begin: Any, length: Any, flips: Any, pixels: int, size: int) -> tuple[Any, Any]:
    """For blocks k of results i along an axis: where their window begins (b, k), and its weights (b, k, i, window)."""
    block = min(BLOCK, size)
    blocks, widest = -(-size // block), max(pixels / size, 1.0)
    window = min(pixels, math.ceil(block * pixels / size + 4 * widest) + 3)
    begin, length = (jnp.asarray(v, jnp.float32)[:, None, None] for v in (begin, length))
    scale = length / size
    stretch = jnp.maximum(scale, 1.0)
    place = jnp.minimum(jnp.arange(blocks * block), size - 1).reshape(blocks, block)
    place = jnp.where(flips[:, None, None], size - 1 - place, place)
    middle = begin + (place + 0.5) * scale  # b k i
    first = jnp.maximum(jnp.trunc(middle - 2 * stretch + 0.5), 0)
    last = jnp.minimum(jnp.trunc(middle + 2 * stretch + 0.5), pixels)
    start = jnp.clip(first.min(-1), 0, pixels - window)  # b k
    at = start[..., None, None] + jnp.arange(window)
    weights = cubic((at + 0.5 - middle[..., None]) / stretch[..., None])
    weights = jnp.where((at >= first[..., None]) & (at < last[..., None]), weights, 0.0)
    return start.astype(jnp.int32), weights / weights.sum(-1, keepdims=True)


def _along_rows(x: Any, starts: Any, weights: Any) -> Any:
    """(t, h, n) -> (t, k i, n)."""
    size = weights.shape[-1]
    cut = jax.vmap(lambda s: jax.lax.dynamic_slice_in_dim(x, s, size, 1))(starts).astype(jnp.float32)  # k t window n
    return jnp.einsum("kiw,ktwn->tkin", weights, cut, precision=EXACT).reshape(len(x), -1, x.shape[-1])


def _along_columns(x: Any, starts: Any, weights: Any) -> Any:
    """(n, w) -> (n, k i)."""
    size = weights.shape[-1]
    cut = jax.vmap(lambda s: jax.lax.dynamic_slice_in_dim(x, s, size, 1))(starts)  # k n window
    return jnp.einsum("knw,kiw->nki", cut, weights, precision=EXACT).reshape(len(x), -1)
