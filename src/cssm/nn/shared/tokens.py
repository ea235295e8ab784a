"""Clips as sequences of tokens: pixels in raster order, frame after frame."""

from functools import partial
from typing import Any

import jax.numpy as jnp

from cssm.core.typing import Frame, Video

from ..mixer import repeat_frame

product = partial(jnp.matmul, precision="highest")


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


def repeated(mixer: Any, state, x: Frame, steps: int):
    """(state, y) after a frame repeated `steps` times, for the cost of three frames or so.

    Once the convolution over tokens sees nothing but this frame, each repeat maps the memory in the same affine way,
    and `mixer.after_frames` applies it many times at once; the last frame is scanned for its y.
    """
    first = max(1, -(-(mixer.conv.taps - 1) // (x.shape[1] * x.shape[2])))
    between = steps - first - 1
    if between < 2:
        return mixer._scan(state, repeat_frame(x, steps), readout="last")
    state, _ = mixer._scan(state, repeat_frame(x, first), readout="last")
    written = mixer._scan(state._replace(memory=jnp.zeros_like(state.memory)), x[:, None], readout="last")[0].memory
    state = state._replace(memory=mixer.after_frames(state, x, written, between))
    return mixer._scan(state, x[:, None], readout="last")


def matrix_geometric(matrix, steps: int):
    """(M^n, 1 + M + ... + M^{n-1}) of (..., d, d) for n = steps, by doubling.

    >>> [m.item() for m in matrix_geometric(jnp.full((1, 1), 0.5), 3)]
    [0.125, 1.75]
    """
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    power, total = identity, jnp.zeros_like(matrix)
    for bit in bin(steps)[2:]:
        total, power = total + product(power, total), product(power, power)
        if bit == "1":
            total, power = identity + product(matrix, total), product(power, matrix)
    return power, total
