"""Counts and sums of streams without end: integers that saturate, and sums that keep what they lose."""

import jax.numpy as jnp

MOST = 2**30  # frames counted: a year at 30 frames a second; later ones weigh as if there were no more


def counted(frames, more):
    """frames + more, int32, at most 2^30.

    >>> counted(jnp.array([2, MOST]), 3).tolist() == [5, MOST]
    True
    """
    return jnp.minimum(frames, MOST - more) + more


def compensated(total, part):
    """total + part to twice the digits, (..., 2): the sum as a number, and what that number lacks (Knuth's two-sum).

    >>> compensated(jnp.float32(2**24), jnp.float32(0.25)).tolist()
    [16777216.0, 0.25]
    """
    rounded = total + part
    shown = rounded - total
    return jnp.stack([rounded, (total - (rounded - shown)) + (part - shown)], -1)
