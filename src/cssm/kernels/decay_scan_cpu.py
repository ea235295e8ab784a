"""Compiled decay scan for CPUs: one read and one write of the data, channels vectorised, rows shared among threads.

A task is a block of rows r of one batch element over a range of time, small enough that a step of it stays in the
first cache. With few rows, time is split instead: a first pass finds what each chunk adds to the carry, a second starts
each chunk from the carry its predecessors leave.

a = exp(log_a) (B,T,R) and all data arrays (B,T,R,C) or (B,R,C) are C-contiguous, float32 or float64, of one dtype.
a = 0 selects instead of multiplying: it forgets even inf and NaN. Source: docs/math.md section 1.
"""

from typing import Any, NamedTuple, no_type_check

import numpy as np

from cssm.core.typing import Float
from cssm.shared.compiled import compiled
from cssm.shared.threads import run, usable_threads

# the sum over channels may be taken in any order; nothing is assumed about inf and NaN
compiled_sum = compiled(fastmath={"reassoc", "contract"})
CACHED = 4096  # elements of one step of a task: 16 KiB of float32


class Task(NamedTuple):
    """Rows r0 .. r1 - 1 of batch element b, steps t0 .. t1 - 1; `chunk` numbers the ranges of time."""

    b: int
    r0: int
    r1: int
    t0: int
    t1: int
    chunk: int


def plan(shape: tuple[int, ...], threads: int, split: bool) -> list[Task]:
    """The tasks of x of `shape` (B, T, R, C), and with split=True at least two ranges of time.

    >>> [task[1:5] for task in plan((1, 9, 6, 4), 2, False)], [task[1:5] for task in plan((1, 9, 1, 4), 2, True)]
    ([(0, 3, 0, 9), (3, 6, 0, 9)], [(0, 1, 0, 5), (0, 1, 5, 9)])
    """
    batch, steps, rows, channels = shape
    block = max(1, min(CACHED // max(1, channels), -(-batch * rows // threads), rows))
    chunk = max(1, -(-steps // max(2, threads))) if split else max(1, steps)
    return [
        Task(b, r, min(r + block, rows), t, min(t + chunk, steps), t // chunk)
        for t in range(0, steps, chunk) for b in range(batch) for r in range(0, rows, block)
    ]  # fmt: skip


def forward(
    a: Float[Any, "b t r"], x: Float[Any, "b t r c"], h0: Float[Any, "b r c"], out: Float[Any, "b t r c"],
    split: bool = False,
):  # fmt: skip
    """out_t = a_t out_{t-1} + x_t from h0 (B,R,C), written into `out`."""
    if x.size == 0:
        return
    tasks = plan(x.shape, usable_threads(), split)
    starts = h0[None]
    if split:
        ends, products = _buffers(a, h0, tasks)
        run([lambda task=task: _forward_ends(a, x, *task, ends, products) for task in tasks])
        starts = _carries(h0, ends, products)
    run([lambda task=task: _forward(a, x, starts[task.chunk], out, *task[:5]) for task in tasks])


def backward(
    a: Float[Any, "b t r"], h: Float[Any, "b t r c"], h0: Float[Any, "b r c"], g: Float[Any, "b t r c"],
    dlog_a: Float[Any, "b t r"], dx: Float[Any, "b t r c"], split: bool = False,
):  # fmt: skip
    """Writes dx and dlog_a from the states h and their cotangent g; returns dh0. u_t = a_t s_t is the carry."""
    zero = np.zeros_like(h0)
    if g.size == 0:
        dlog_a[:] = 0
        return zero
    tasks = plan(g.shape, usable_threads(), split)
    starts = zero[None]
    if split:
        ends, products = _buffers(a, h0, tasks)
        run([lambda task=task: _backward_ends(a, g, *task, ends, products) for task in tasks])
        starts = _carries(zero, ends[::-1], products[::-1])[::-1]
    dh0 = np.empty_like(h0)
    run([
        lambda task=task: _backward(a, h, h0, g, starts[task.chunk], dlog_a, dx, dh0, *task[:5]) for task in tasks
    ])  # fmt: skip
    return dh0


def _buffers(a, h0, tasks):
    chunks = 1 + tasks[-1].chunk
    return np.empty((chunks, *h0.shape), h0.dtype), np.empty((chunks, a.shape[0], a.shape[2]))


def _carries(start, ends, products):
    """The carry into each chunk. Products are float64: their range does not run out before the data's does."""
    carries = np.empty_like(ends)
    carries[0] = start
    for k in range(1, len(ends)):
        before, product = carries[k - 1], products[k - 1][..., None]
        with np.errstate(all="ignore"):
            carries[k] = np.where((product == 0) | (before == 0), 0, product * before) + ends[k - 1]
    return carries


@compiled
@no_type_check
def _forward(a, x, start, out, b, r0, r1, t0, t1):
    channels = x.shape[3]
    h = start[b, r0:r1].copy()
    for t in range(t0, t1):
        for r in range(r0, r1):
            decay = a[b, t, r]
            row, new, target = h[r - r0], x[b, t, r], out[b, t, r]
            if decay == 0:
                for c in range(channels):
                    row[c] = new[c]
                    target[c] = new[c]
            else:
                for c in range(channels):
                    value = decay * row[c] + new[c]
                    row[c] = value
                    target[c] = value


@compiled
@no_type_check
def _forward_ends(a, x, b, r0, r1, t0, t1, chunk, ends, products):
    channels = x.shape[3]
    h, product = ends[chunk, b, r0:r1], products[chunk, b, r0:r1]
    h[:], product[:] = 0, 1
    for t in range(t0, t1):
        for r in range(r0, r1):
            decay = a[b, t, r]
            product[r - r0] *= decay
            row, new = h[r - r0], x[b, t, r]
            for c in range(channels):
                row[c] = new[c] if decay == 0 else decay * row[c] + new[c]


@compiled_sum
@no_type_check
def _backward(a, h, h0, g, start, dlog_a, dx, dh0, b, r0, r1, t0, t1):
    channels = g.shape[3]
    u = start[b, r0:r1].copy()
    for t in range(t1 - 1, t0 - 1, -1):
        for r in range(r0, r1):
            decay = a[b, t, r]
            row, new, target = u[r - r0], g[b, t, r], dx[b, t, r]
            if decay == 0:
                for c in range(channels):
                    target[c] = new[c] + row[c]
                    row[c] = 0
                dlog_a[b, t, r] = 0
                continue
            past = h[b, t - 1, r] if t > 0 else h0[b, r]
            total = u.dtype.type(0)
            for c in range(channels):
                value = new[c] + row[c]
                target[c] = value
                value *= decay
                row[c] = value
                total += value * past[c]
            dlog_a[b, t, r] = total
    if t0 == 0:
        dh0[b, r0:r1] = u


@compiled
@no_type_check
def _backward_ends(a, g, b, r0, r1, t0, t1, chunk, ends, products):
    channels = g.shape[3]
    u, product = ends[chunk, b, r0:r1], products[chunk, b, r0:r1]
    u[:], product[:] = 0, 1
    for t in range(t1 - 1, t0 - 1, -1):
        for r in range(r0, r1):
            decay = a[b, t, r]
            product[r - r0] *= decay
            row, new = u[r - r0], g[b, t, r]
            for c in range(channels):
                row[c] = 0 if decay == 0 else decay * (row[c] + new[c])
