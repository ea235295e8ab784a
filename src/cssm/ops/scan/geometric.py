"""A frame repeated T times, in closed form: the filter sum_{t<T} K^t by binary doubling, on the kernel alone."""

from typing import Any

import jax.numpy as jnp

from cssm.core.typing import Inexact


def geometric(
    spectrum: Inexact[Any, "..."], steps: int
) -> tuple[Inexact[Any, "..."], Inexact[Any, "..."], Inexact[Any, "..."]]:
    """(K^T, G_T, C_T) with G_T = sum_{t<T} K^t and C_T = sum_{t=1..T} G_t: O(log T) products, exact also at K = 1.

    From T = m to 2m: G <- G (1 + K^m), C <- C + m G + K^m C; from m to m + 1: G <- 1 + K G, C <- C + G.
    """
    power, total, cumulative = jnp.ones_like(spectrum), jnp.zeros_like(spectrum), jnp.zeros_like(spectrum)
    m = 0
    for bit in bin(steps)[2:]:
        cumulative = cumulative + m * total + power * cumulative
        total, power, m = total * (1 + power), power * power, 2 * m
        if bit == "1":
            total, power, m = 1 + spectrum * total, power * spectrum, m + 1
            cumulative = cumulative + total
    return power, total, cumulative
