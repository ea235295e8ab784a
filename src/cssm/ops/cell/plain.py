"""A cell frame by frame, in XLA's own operations."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..spectral.native_transform import plain_to_space, plain_to_spectrum
from ..spectral.transform import to_space, to_spectrum
from .cells import Cell

PICKED, OWN = (to_spectrum, to_space), (plain_to_spectrum, plain_to_space)


def plain(
    cell: Cell, x, planes, gates, statics, state, reset, readout: str, *, transforms=PICKED
) -> tuple[Any, Any]:  # fmt: skip
    """(state, y). The gradient keeps the states alone and computes a frame again, in cache; the mean over frames is
    taken of spectra, before one inverse transform."""
    height, width = x.shape[2:4]
    constants = cell.constants_of(height, width)

    def body(carry, now):
        (state, total), (x, planes, gates, reset) = carry, now
        if reset is not None:
            state = jnp.where(reset[:, None, None, None, None], 0, state)
        state, read = cell.advance(statics, state, _spectra(cell, x, transforms), planes, gates, constants)
        total = total + read if readout == "mean" else total
        return (state, total), _field(read, width, transforms) if readout == "all" else None

    now = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (x, planes, gates, reset))
    first = jax.tree.map(lambda a: a[0], now[:3])
    like, read = jax.eval_shape(
        lambda s, n: cell.advance(statics, s, _spectra(cell, n[0], OWN), *n[1:], constants), state, first
    )
    total = jnp.zeros(read.shape, read.dtype) if readout == "mean" else None
    (state, total), y = lax.scan(jax.checkpoint(body, prevent_cse=False), (state.astype(like.dtype), total), now)
    if readout == "mean":
        return state, _field(total / x.shape[1], width, transforms)
    return state, jnp.moveaxis(y, 0, 1) if readout == "all" else None


def frame(cell: Cell, x, planes, gates, statics, state) -> tuple[Any, Any]:
    """(state, y) of one frame."""
    height, width = x.shape[1:3]
    state, read = cell.advance(
        statics, state, _spectra(cell, x, PICKED), planes, gates, cell.constants_of(height, width)
    )
    return state, _field(read, width, PICKED)


def _spectra(cell: Cell, x, transforms):
    """(B, I, C, H, Wf) of a frame (B, H, W, I C)."""
    spectra = transforms[0](x)
    return spectra.reshape(spectra.shape[0], cell.counts.inputs, -1, *spectra.shape[2:])


def _field(read, width: int, transforms):
    """(B, H, W, O C) of spectra (B, O, C, H, Wf)."""
    return transforms[1](read.reshape(read.shape[0], -1, *read.shape[3:]), width)
