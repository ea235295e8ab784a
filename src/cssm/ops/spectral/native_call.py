"""How JAX programs call the compiled spectral kernels, and whether they can."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from cssm.shared.radix_plan import LARGEST_PRIME, plan, sparse, transformable, work_size
from cssm.shared.spectral import NUMBERS

from ..xla_cpu import TARGET, unavailable

_off: ContextVar[bool] = ContextVar("without_compiled_kernels", default=False)


@contextmanager
def without_compiled_kernels() -> Iterator[None]:
    """What is traced inside takes XLA's own transforms: its counts of operations do not see into compiled kernels."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def why_not(height: int, width: int) -> str | None:
    """Why the compiled kernels are not for frames of H x W pixels; None where they are.

    >>> why_not(8, 131)
    'the width 131 has a prime factor above 127'
    """
    if _off.get():
        return "compiled kernels are turned off here"
    if jax.default_backend() != "cpu":
        return f"it is compiled for CPUs, not for {jax.default_backend()}"
    for name, side in (("height", height), ("width", width)):
        if not transformable(side):
            return f"the {name} {side} has a prime factor above {LARGEST_PRIME}"
    return unavailable()


def why_not_picked(height: int, width: int, pairs: int, dtype: Any) -> str | None:
    """`why_not`, or that they would be slower for so many pairs of batch row and channel, or not split over devices."""
    reason = why_not(height, width)
    if reason is None and jax.device_count() > 1:
        return f"XLA does not split it over the {jax.device_count()} devices"
    return reason or sparse(pairs, jnp.finfo(dtype).dtype == jnp.float64)


def call(kernel: int, flags: tuple, operands: list, more: list, grid: tuple[int, int], results: list) -> Any:
    """The results of a kernel of `kernels/spectral_xla.py` with transforms, for frames of grid (H, W)."""
    from cssm.kernels.spectral_cpu import tasks

    double = bool(operands[3].dtype == np.complex128)
    along, across = plan(grid[0], double), plan(grid[1], double)
    tables = [across.stages, across.rotations, across.place, along.stages, along.rotations, along.place]
    count = tasks(operands[3].shape[0], operands[3].shape[1], double)
    return call_tasks(kernel, count, (*flags, work_size(*grid)), [*operands, *tables, *more], results)


def call_tasks(kernel: int, tasks: int, flags: tuple, operands: list, results: list) -> Any:
    """The results of `tasks` tasks of a kernel of `kernels/spectral_xla.py`."""
    from cssm.kernels import spectral_xla

    spectral_xla.enter(kernel, bool(operands[3].dtype == np.complex128))
    numbers = np.array([kernel, tasks, *flags, *[0] * (NUMBERS - 2 - len(flags))], np.int32)
    return jax.ffi.ffi_call(TARGET, results)(numbers, *operands)


def with_gradient_of(plain: Callable, run: Callable) -> Callable:
    """`run`, differentiated as `plain`, which has its values: for derivatives of what a gradient is made of."""

    @jax.custom_vjp
    def same(*arrays):
        return run(*arrays)

    same.defvjp(lambda *arrays: (run(*arrays), arrays), lambda saved, cotangents: jax.vjp(plain, *saved)[1](cotangents))
    return same


def batched(run: Callable, shared: tuple[int, ...]) -> Callable:
    """`run` with a rule for vmap: a mapped axis joins the batch, the first axis of every argument but the `shared`
    ones; where it is one of those, one after the other."""
    mapped = custom_vmap(run)

    @mapped.def_vmap
    def rule(size, in_batched, *arrays):
        if any(in_batched[n] for n in shared):
            one = lambda i: mapped(*(_row(a, i) if b else a for a, b in zip(arrays, in_batched, strict=True)))  # noqa: E731
            outputs = lax.map(one, jnp.arange(size))
        else:
            folded = (
                a if n in shared else _joined(a if b else jnp.broadcast_to(a, (size, *a.shape)))
                for n, (a, b) in enumerate(zip(arrays, in_batched, strict=True))
            )
            outputs = [_split(o, size) for o in mapped(*folded)]
        return outputs, [True] * len(outputs)

    return mapped


def _row(array, i):
    return lax.dynamic_index_in_dim(array, i, 0, keepdims=False)


def _joined(array):
    """The mapped axis and the batch as one; an argument that was left out, (mapped, 0), stays so."""
    size, rows, *rest = array.shape
    return array[0] if array.ndim == 2 and rows == 0 else array.reshape(size * rows, *rest)


def _split(array, size):
    rows, *rest = array.shape
    return array.reshape(size, rows // size, *rest) if array.ndim > 1 else jnp.zeros((size, rows), array.dtype)
