"""Clips as sequences of tokens: pixels in raster order, frame after frame."""

import jax.numpy as jnp

from cssm.core.typing import Video


def over_tokens(x: Video, reset=None):
    """(B, T, H, W, C) -> (B, T H W, 1, 1, C), and reset (B, T) at the first token of a frame, (B, T H W) bool or None.

    >>> over_tokens(jnp.zeros((1, 2, 3, 4, 5)))[0].shape
    (1, 24, 1, 1, 5)
    """
    batch, steps, height, width, channels = x.shape
    tokens = x.reshape(batch, -1, 1, 1, channels)
    if reset is None:
        return tokens, None
    starts = jnp.zeros((batch, steps, height * width), bool).at[:, :, 0].set(reset)
    return tokens, starts.reshape(batch, -1)
