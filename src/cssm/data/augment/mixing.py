"""What is done to normalised pixels: erasing a box of noise, Mixup and CutMix of a batch with itself reversed."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from cssm.core.typing import Bool, Float, Int

TRIES = 10
AREA, ASPECT = (0.02, 1 / 3), (0.3, 3.33)  # of an erased box


def draw_erased(key: jax.Array, rows: int, size: tuple[int, int], chance: float) -> Int[Any, "b 4"]:
    """(top, left, height, width) px of the boxes to erase in pictures of (height, width); height 0: none.

    The share of the area is uniform on .02..1/3, the logarithm of height / width on log .3..log 3.33; the first of ten
    tries that is smaller than the picture is taken.
    """
    h, w = size
    keys = jax.random.split(key, 4)
    area = h * w * jax.random.uniform(keys[0], (rows, TRIES), minval=AREA[0], maxval=AREA[1])
    low, high = map(math.log, ASPECT)
    aspect = jnp.exp(jax.random.uniform(keys[1], (rows, TRIES), minval=low, maxval=high))
    heights, widths = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (heights < h) & (widths < w)
    first = jnp.argmax(fits, -1)[:, None]
    height, width = (jnp.take_along_axis(v, first, 1)[:, 0] for v in (heights, widths))
    place = jax.random.uniform(keys[2], (rows, 2))
    top, left = jnp.floor(place[:, 0] * (h - height + 1)), jnp.floor(place[:, 1] * (w - width + 1))
    chosen = fits.any(-1) & jax.random.bernoulli(keys[3], chance, (rows,))
    return jnp.stack([top, left, jnp.where(chosen, height, 0), width], -1).astype(jnp.int32)


def erased(key: jax.Array, x: Any, boxes: Int[Any, "b 4"]) -> Any:
    """Noise N(0, 1) in the boxes of pictures (b, [t,] h, w, c): one field of noise, which the whole batch shares."""
    noise = jax.random.normal(key, x.shape[-3:], x.dtype)
    return jnp.where(_lifted(inside(boxes, x.shape[-3:-1]), x.ndim), noise, x)


def inside(boxes: Any, size: tuple[int, int]) -> Bool[Any, "b h w"]:
    """Which pixels lie in the boxes (b, 4)."""
    top, left, height, width = (boxes[:, i, None, None] for i in range(4))
    y, x = jnp.arange(size[0])[:, None], jnp.arange(size[1])
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


def draw_mix(key: jax.Array, size: tuple[int, int], alphas: tuple[float, float], mix: float, switch: float):
    """How a batch is mixed: the share of each pixel (h, w) that a picture keeps, and the share () of its label.

    alphas: of Beta(alpha, alpha) for Mixup and for CutMix, 0 for never. mix: the probability that it is mixed at all;
    switch: that it is CutMix where both are possible. The label's share is that of the pixels that are kept.
    """
    keys = jax.random.split(key, 5)
    mixup, cutmix = alphas
    cuts = jax.random.bernoulli(keys[0], switch) if mixup and cutmix else jnp.array(bool(cutmix))
    drawn = [jax.random.beta(k, a, a) if a else 1.0 for k, a in zip(keys[1:3], alphas, strict=True)]
    kept = jnp.where(cuts, drawn[1], drawn[0])
    outside = (~inside(cut_box(keys[3], kept, size)[None], size)[0]).astype(jnp.float32)
    happens = jax.random.bernoulli(keys[4], mix)
    pixels, label = jnp.where(cuts, outside, kept), jnp.where(cuts, outside.mean(), kept)
    return jnp.where(happens, pixels, 1.0), jnp.where(happens, label, 1.0)


def cut_box(key: jax.Array, kept: Any, size: tuple[int, int]) -> Int[Any, "4"]:
    """(top, left, height, width) px of the box that another picture fills: of 1 - kept of the area, cut at the border.

    Its middle is uniform over the pixels, so that less may remain of it.
    """
    side = jnp.sqrt(1 - kept)
    middle = jax.random.randint(key, (2,), 0, jnp.array(size))
    extent = (jnp.array(size) * side).astype(jnp.int32)
    low = jnp.clip(middle - extent // 2, 0, jnp.array(size))
    high = jnp.clip(middle + extent // 2, 0, jnp.array(size))
    return jnp.concatenate([low, high - low])


def mixed(x: Any, kept: Float[Any, "h w"], partner: Bool[Any, "b"]) -> Any:
    """Pictures (b, [t,] h, w, c) mixed with those of the reversed batch, in the rows that have a partner."""
    share = jnp.where(partner[:, None, None], kept, 1.0).astype(x.dtype)
    share = _lifted(share, x.ndim)
    return jnp.where(share < 1, share * x + (1 - share) * x[::-1], x)


def mixed_labels(
    labels: Any, kept: Float[Any, ""], partner: Bool[Any, "b"], valid: Bool[Any, "b"], classes: int
) -> Float[Any, "b p"]:
    """Labels (b,) or (b, p) as shares of the classes; NaN where a valid row's label is outside 0..classes-1.

    >>> true = jnp.ones(2, bool)
    >>> mixed_labels(jnp.array([0, 2]), jnp.array(0.75), true, true, 3).tolist()
    [[0.75, 0.0, 0.25], [0.25, 0.0, 0.75]]
    """
    shares = jnp.asarray(labels)
    if shares.ndim == 1:
        fits = (shares >= 0) & (shares < classes)
        shares = jnp.where((fits | ~valid)[:, None], jax.nn.one_hot(shares, classes), jnp.nan)
    shares = shares.astype(jnp.float32)
    other = jnp.where(partner[:, None], shares[::-1], shares)
    return kept * shares + (1 - kept) * other


def _lifted(mask: Any, ndim: int) -> Any:
    """(b, h, w) as (b, [1,] h, w, 1)."""
    return (mask[:, None] if ndim == 5 else mask)[..., None]
