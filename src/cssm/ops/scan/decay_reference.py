"""The decay scan as source 001 writes it, with the causal mask its snippet lacks: O(T^2), and obvious."""

import jax.numpy as jnp


def decay_scan_reference(log_a, x, h0=None):
    """out_t = sum_{j <= t} exp(l_{j+1} + ... + l_t) x_j, plus exp(l_1 + ... + l_t) h0; gradients by autodiff.

    The mask sets exponents to -inf *before* exp: after it, exp has overflowed above the diagonal and 0 * inf is NaN.
    Sums of log_a are taken anew for each pair (t, j), so that log_a = -inf does no harm.
    """
    start, steps = jnp.zeros_like(x[:, :1]) if h0 is None else h0[:, None].astype(x.dtype), x.shape[1]
    x, log_a = jnp.concatenate([start, x], 1), jnp.pad(log_a, ((0, 0), (1, 0), (0, 0)))
    j, k, t = jnp.ogrid[: steps + 1, : steps + 1, : steps + 1]
    between = (j < k) & (k <= t)  # (j, k, t): the decays on the way from j to t
    log_m = jnp.where(between[None, ..., None], log_a[:, None, :, None], 0).sum(2)  # (B, j, t, R)
    weights = jnp.exp(jnp.where((j <= t)[:, 0, :, None], log_m, -jnp.inf))
    return jnp.einsum("bjtr,bjrc->btrc", weights, x)[:, 1:]
