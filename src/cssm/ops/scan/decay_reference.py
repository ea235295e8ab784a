"""The decay scan as source 001 writes it, with the causal mask its snippet lacks: O(T^2), and obvious."""

from typing import Any

import jax.numpy as jnp

from cssm.core.typing import Float


def decay_scan_reference(
    log_a: Float[Any, "b t r"], x: Float[Any, "b t r c"], h0: Float[Any, "b r c"] | None = None
) -> Float[Any, "b t r c"]:
    """out_t = sum_{j <= t} exp(l_{j+1} + ... + l_t) x_j, plus exp(l_1 + ... + l_t) h0; gradients by autodiff.

    The mask sets exponents to -inf *before* exp: after it, exp has overflowed above the diagonal and 0 * inf is NaN.
    Each exponent is summed from its own j on, not as a difference of sums: exact also where log_a = -inf.
    """
    if h0 is not None:  # as the input of a step before the first, whose own decay meets no past
        log_a, x = jnp.pad(log_a, ((0, 0), (1, 0), (0, 0))), jnp.concatenate([h0[:, None].astype(x.dtype), x], 1)
    steps = x.shape[1]
    j, t = (index[..., None] for index in jnp.ogrid[:steps, :steps])
    log_m = jnp.where(j < t, log_a[:, None], 0).cumsum(2)  # (B, j, t, R)
    out = jnp.einsum("bjtr,bjrc->btrc", jnp.exp(jnp.where(j <= t, log_m, -jnp.inf)), x)
    return out if h0 is None else out[:, 1:]
