"""A memory per pixel and channel, h_t = a h_{t-1} + b, when the same frame comes again and again."""

from typing import Any

from cssm.core.typing import Float, Frame
from cssm.ops.scan.geometric import geometric


def repeated(decay: Float[Any, "..."], write: Frame, memory: Frame, steps: int, readout: str) -> tuple[Frame, Frame]:
    """The last h of `steps` steps from `memory`, and the h that is read: the last, or the mean of all.

    Args: decay: a, broadcastable to write b and memory h_0, (B, H, W, C); no division, so that a = 1 is exact.

    >>> import jax.numpy as jnp
    >>> write, memory = jnp.ones((1, 1, 1, 1)), jnp.full((1, 1, 1, 1), 4.0)
    >>> [v.item() for v in repeated(jnp.array(0.5), write, memory, 2, "mean")]  # 3, then 2.5
    [2.5, 2.75]
    """
    power, total, cumulative = geometric(decay, steps)
    last = total * write + power * memory
    return last, last if readout == "last" else (cumulative * write + decay * total * memory) / steps
