"""Compiled kernels called from outside XLA, on arrays at addresses: through the same call frames, hence the same code.

A kernel is task(frame, number); see `xla_cpu`. The frame holds where the operands and results lie; threads take the
next task until none is left.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, no_type_check

import numpy as np
from numba import carray, types  # pyright: ignore[reportPrivateImportUsage]

from cssm.shared.compiled import callback

from . import spectral_xla, xla_cpu
from .xla_cpu import call_task, fetch_add, words_at

Worker = Callable[[int], Any]


class Place(NamedTuple):
    """An array: its address and shape."""

    address: int
    shape: tuple[int, ...]


def call(
    kernel: int, double: bool, tasks: int, operands: Sequence[Place], results: Sequence[Place],
    share: Callable[[Worker, int, int], None],
) -> None:  # fmt: skip
    """Do all tasks of a kernel of `spectral_xla`. share(worker, address of it, argument) calls worker(argument) on as
    many threads as it likes, at least one, and returns when all are back.

    Raises: MemoryError: a kernel ran out of memory.
    """
    spectral_xla.enter(kernel, double)
    frame, worker = _frame(operands, results), _worker()
    state = np.array([0, tasks, xla_cpu.address_of(kernel, double), frame.ctypes.data, 0], np.int64)
    share(worker.ctypes, worker.address, state.ctypes.data)
    if state[4]:
        raise MemoryError("a compiled kernel failed: memory ran out")


def _frame(operands: Sequence[Place], results: Sequence[Place]) -> np.ndarray:
    """Words of a frame, of its arrays of addresses, of the buffers and of their shapes, as `xla_cpu` reads them."""
    places = [*operands, *results]
    head, count = 15, len(places)
    shapes = head + count + 6 * count
    ends = [*itertools.accumulate((len(place.shape) for place in places), initial=shapes)]
    words = np.zeros(ends[-1] + 1, np.int64)
    base = words.ctypes.data
    at = lambda word: base + 8 * word  # noqa: E731
    words[xla_cpu.OPERANDS // 8], words[xla_cpu.RESULTS // 8] = at(head), at(head + len(operands))
    for n, (place, end) in enumerate(zip(places, ends, strict=False)):
        buffer = head + count + 6 * n
        words[head + n] = at(buffer)
        words[buffer + xla_cpu.DATA // 8 : buffer + xla_cpu.DIMS // 8 + 1] = place.address, len(place.shape), at(end)
        words[end : end + len(place.shape)] = place.shape
    return words


@no_type_check
def _take(argument):
    """Take tasks until none is left."""
    state = carray(words_at(argument), (5,))
    while True:
        number = fetch_add(argument, 1)
        if number >= state[1]:
            return 0
        if call_task(state[2], state[3], number) != 1:
            fetch_add(argument + 32, 1)


_kept: list[Any] = []


def _worker() -> Any:
    if not _kept:
        _kept.append(callback(types.int64(types.int64), _take))
    return _kept[0]
