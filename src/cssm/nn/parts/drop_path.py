"""Drop path: in training, a residual branch is skipped for whole samples."""

import jax
import jax.numpy as jnp

from cssm.core.errors import UsageError


def check_rate(rate: float) -> float:
    """The rate itself. Raises UsageError unless 0 <= rate < 1."""
    if not 0 <= rate < 1:
        raise UsageError(f"drop_path is {rate}, expected a probability 0 <= drop_path < 1")
    return rate


def drop_path(y, rate: float, key: jax.Array | None = None):
    """y (B, ...) of a branch, m_b y_b / (1 - rate) with m_b ~ Bernoulli(1 - rate): its expectation is y.

    One draw a sample, shared by all its frames, pixels and channels. Without a key (evaluation) it is y itself.
    Source: Huang et al. 2016, Deep networks with stochastic depth; docs/math.md section 6.

    >>> kept = drop_path(jnp.ones((6, 2)), 0.5, jax.random.key(0))
    >>> sorted({tuple(row) for row in kept.tolist()})
    [(0.0, 0.0), (2.0, 2.0)]
    """
    if key is None or not rate:
        return y
    keep = jax.random.bernoulli(key, 1 - rate, (y.shape[0],))
    return jnp.where(keep.reshape(-1, *(1,) * (y.ndim - 1)), y / (1 - rate), 0)
