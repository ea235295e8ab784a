"""A cell by the compiled kernel of `kernels/spectral_cell.py`, with its gradient.

Gradients of spectra are taken over w = m / (H W), so that fields need no weights, and JAX's cotangents are conjugated:
see `cssm.shared.spectral.column_weights`. A second derivative is that of `plain`.
"""

import math
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cssm.shared.cell import blocks, task_size
from cssm.shared.radix_plan import plan, work_size
from cssm.shared.spectral import CELLS, CELLS_BACK

from ..spectral.native_call import batched, call_tasks, with_gradient_of
from ..spectral.transform import adjoint_weight
from .cells import Cell
from .plain import OWN, plain


def native(cell: Cell, x, planes, gates, statics, state, reset, shown: bool) -> tuple[Any, Any]:
    """(state, y, or None unless shown), as `plain`."""
    double = bool(state.dtype == np.complex128)
    order = plan(x.shape[2], double).order
    real = [a.astype(state.real.dtype) for a in (x, planes, gates)]
    real[1] = jnp.moveaxis(real[1][..., order, :], -1, 2)  # b t wf p h', rows as the transforms leave them
    marks = jnp.zeros((0,), bool) if reset is None else reset
    final, y = _run(cell, shown, *real, statics.astype(state.dtype), state, marks)
    return final, y if shown else None


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(cell, shown, *arrays):
    y, final, _ = _cells(cell, shown, 0)(*arrays)
    return final, y


def _forward(cell, shown, *arrays):
    y, final, starts = _kept(cell, shown)(*arrays)
    return (final, y), (arrays, starts)


def _backward(cell, shown, saved, cotangents):
    arrays, starts = saved
    return *_gradient(cell, shown)(*arrays, starts, *cotangents), None


_run.defvjp(_forward, _backward)


@cache
def _kept(cell: Cell, shown: bool):
    """y, final and the states that the gradient starts from; differentiated as `plain`, where those lead nowhere."""

    def run(*arrays):
        return tuple(_cells(cell, shown, _segment(arrays[0].shape[1]))(*arrays))

    def slow(*arrays):
        y, _, starts = (jnp.zeros(a.shape, a.dtype) for a in jax.eval_shape(run, *arrays))
        out = _plainly(cell, shown, *arrays)
        return (out[1] if shown else y), out[0], starts

    return with_gradient_of(slow, run)


def _segment(steps: int) -> int:
    return math.isqrt(steps - 1) + 1


def _plainly(cell, shown, x, planes, gates, statics, state, reset):
    """`plain` on what the kernel is given."""
    place = plan(x.shape[2], bool(state.dtype == np.complex128)).place
    planes, marks = jnp.moveaxis(planes, 2, -1)[..., place, :], reset if reset.size else None
    return plain(cell, x, planes, gates, statics, state, marks, "all" if shown else "none", transforms=OWN)


@cache
def _cells(cell: Cell, shown: bool, segment: int):
    def run(x, planes, gates, statics, state, reset):
        (batch, steps, height, width, _), channels, real = x.shape, state.shape[2], state.real.dtype
        double = bool(state.dtype == np.complex128)
        tasks, size = blocks(channels, double), task_size(height, width, double)
        kept = (batch, tasks, -(-steps // segment), cell.counts.states * size) if segment else (batch, 0)
        results = [
            jax.ShapeDtypeStruct((*x.shape[:4], cell.counts.outputs * channels) if shown else (batch, 0), real),
            jax.ShapeDtypeStruct(state.shape, state.dtype), jax.ShapeDtypeStruct(kept, real),
        ]  # fmt: skip
        operands = _operands(cell, x, planes, gates, state, statics, reset)
        flags = (cell.kind, cell.width, int(shown), segment, work_size(height, width), *cell.counts)
        return call_tasks(CELLS, batch * tasks, flags, operands, results)

    return batched(run, shared=(3,))


def _operands(cell, x, planes, gates, state, statics, reset):
    height, width, double = *x.shape[2:4], bool(state.dtype == np.complex128)
    real = state.real.dtype
    along, across = plan(height, double), plan(width, double)
    tables = [across.stages, across.rotations, across.place, along.stages, along.rotations, along.place]
    constants = np.array([*cell.constants_of(height, width), 0.0], real)
    return [x, planes, gates, state, statics, *tables, reset, constants]


@cache
def _gradient(cell: Cell, shown: bool):
    """The cotangents of x, planes, gates, statics and state."""

    def run(x, planes, gates, statics, state, reset, starts, final, y):
        weight = adjoint_weight(x.shape[2], x.shape[3], state.dtype)
        dx, of_planes, of_gates, of_statics, before = back(
            x, planes, gates, statics, final.conj() / weight, reset, starts, y, jnp.asarray(weight)
        )
        return dx, of_planes, of_gates, of_statics.sum(0).conj() * weight, before.conj() * weight

    def kernel(x, planes, gates, statics, last, reset, starts, y, weight):
        (batch, steps, height, width, _), channels, real = x.shape, last.shape[2], last.real.dtype
        tasks = blocks(channels, bool(last.dtype == np.complex128))
        like = jax.ShapeDtypeStruct
        results = [
            like(x.shape, real), like((batch, tasks, *planes.shape[1:]), real), like(gates.shape, real),
            like((batch, *statics.shape), last.dtype), like(last.shape, last.dtype),
        ]  # fmt: skip
        flags = (cell.kind, cell.width, int(shown), _segment(steps), work_size(height, width), *cell.counts)
        operands = [*_operands(cell, x, planes, gates, last, statics, reset), starts, y]
        dx, of_planes, of_gates, of_statics, before = call_tasks(CELLS_BACK, batch * tasks, flags, operands, results)
        of_planes = of_planes.sum(1) * weight[:, None, None]
        return [dx, of_planes, of_gates, of_statics, before]

    back = batched(kernel, shared=(3, 8))

    def slow(x, planes, gates, statics, state, reset, starts, final, y):
        def again(x, planes, gates, statics, state):
            out = _plainly(cell, shown, x, planes, gates, statics, state, reset)
            return out if shown else out[:1]

        return jax.vjp(again, x, planes, gates, statics, state)[1]((final, y) if shown else (final,))

    return with_gradient_of(slow, run)
