"""3-Augment of DeiT III: each clip is made grey, solarised or blurred; colour jitter follows."""

from typing import Any

import jax
import jax.numpy as jnp

from cssm.core.typing import Float, Int

from .colour import Planes, grey, per_row, where_any
from .filters import gaussian_blur

GREY, SOLARISE, BLUR = range(3)
THRESHOLD = 128
SIGMA = (0.1, 2.0)


def draw_three(key: jax.Array, rows: int) -> tuple[Int[Any, "b"], Float[Any, "b"]]:
    """Which of the three (b,), and the standard deviation of the blur, uniform on .1..2 px; 0 where there is none."""
    first, second = jax.random.split(key)
    kinds = jax.random.randint(first, (rows,), 0, 3)
    sigma = jax.random.uniform(second, (rows,), minval=SIGMA[0], maxval=SIGMA[1])
    return kinds, jnp.where(kinds == BLUR, sigma, 0.0)


def three(x: Planes, kinds: Int[Any, "b"], sigma: Float[Any, "b"]) -> Planes:
    """The clips made grey (0), solarised from level 128 on (1) or blurred (2)."""
    kind = per_row(kinds)
    inverted = jnp.where(x >= THRESHOLD, 255 - x, x)
    x = jnp.where(kind == GREY, grey(x), jnp.where(kind == SOLARISE, inverted, x))
    return where_any((sigma > 0).any(), lambda x: gaussian_blur(x, sigma), x)
