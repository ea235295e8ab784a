"""A recurrence run frame by frame, keeping the states alone for its gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def scan_frames(advance: Callable[[Any, Any], tuple[Any, Any]], state, inputs, reset=None):
    """state, out_t = advance(state, inputs_t) over the frames of batch-first pytrees (B, T, ...).

    A frame is computed again in the backward pass, while it is in cache: the gradient keeps the carried states and the
    inputs. reset (B, T) bool zeroes the state of a row before that frame.

    Returns:
      (state, out): after the last frame; (B, T, ...) per leaf of what `advance` gives.

    >>> scan_frames(lambda s, x: (s + x, s + x), jnp.zeros(1), jnp.ones((1, 3)))[1].tolist()
    [[1.0, 2.0, 3.0]]
    """

    def body(state, now):
        inputs, reset = now
        return advance(state if reset is None else forget(state, reset), inputs)

    inputs, reset = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (inputs, reset))
    after = jax.eval_shape(body, state, jax.tree.map(lambda leaf: leaf[0], (inputs, reset)))[0]
    state = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), state, after)  # double precision if given
    state, out = lax.scan(jax.checkpoint(body, prevent_cse=False), state, (inputs, reset))
    return state, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), out)


def forget(state, reset):
    """state with zeros in the rows where reset (B,) is True."""
    return jax.tree.map(lambda leaf: jnp.where(reset.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf), state)
