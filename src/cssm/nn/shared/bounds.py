"""Parts of `Mixer.state_bound`: how far layers can amplify a bounded input, and what a decaying recurrence adds up to.

Concrete parameters only (float64 on the host), not under jit. Source: docs/math.md section 3.
"""

import numpy as np
from flax import nnx

from cssm.core.typing import Grid


def dense_bound(layer: nnx.Linear | nnx.Conv, input_bound) -> np.ndarray:
    """(C_out,): the largest |layer(x)| of every output channel, for |x| <= input_bound (a number or (C_in,)).

    |sum_i w_i x_i + b| <= sum_i |w_i| input_bound_i + |b|; for a convolution the sum runs over the taps too, whatever
    its padding.

    >>> import jax.numpy as jnp
    >>> layer = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    >>> layer.kernel[...] = jnp.array([[3.0], [-4.0]])
    >>> dense_bound(layer, 2.0).tolist()
    [14.0]
    """
    weights = np.abs(np.asarray(layer.kernel[...], np.float64))
    weights = weights.reshape(-1, *weights.shape[-2:]).sum(0)  # i o
    offset = 0.0 if layer.bias is None else np.abs(np.asarray(layer.bias[...], np.float64))
    limits = np.broadcast_to(np.asarray(input_bound, np.float64), (weights.shape[0],))
    return limits @ weights + offset


def spectrum_bound(grid: Grid, input_bound):
    """The largest |rfft2(x)| of any frequency for |x| <= input_bound: H W input_bound, the sum of all pixels.

    >>> spectrum_bound((4, 4), 2.0)
    32.0
    """
    return grid[0] * grid[1] * input_bound


def decay_bound(write, gain) -> float:
    """write / (1 - gain): the largest |S| of S_t = a_t S_{t-1} + u_t from no past, |a_t| <= gain, |u_t| <= write.

    By induction: |S_t| <= gain write / (1 - gain) + write. write and gain broadcast, the largest over all entries
    counts; infinite where a gain is 1 or more (and something is written).

    >>> decay_bound(2.0, 0.5)
    4.0
    """
    write, gain = np.broadcast_arrays(np.asarray(write, np.float64), np.abs(np.asarray(gain, np.complex128)))
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = np.where(gain < 1, write / (1 - gain), np.where(write > 0, np.inf, 0.0))
    return float(bound.max())
