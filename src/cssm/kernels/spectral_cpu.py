"""The spectral recurrence compiled for CPUs: a clip is read once and written once, the spectra never leave the cache.

A task owns 64 bytes of channels ("lanes", of one batch row or of neighbouring ones) and all of their frames. It keeps
their state, kernel and one frame's spectrum, and takes every frame through transform, recurrence and inverse transform:

    rows      two real rows of pixels are the parts of one complex row; its transform holds the half spectra of both
    columns   transform, S = K S + X, inverse transform, of one column while it is in the first cache
    rows      the inverse of the first step

Spectra are kept transposed, [column][row], rows in the order `fft_cpu` leaves them in: what is linear does not mind.
Lanes do not mix: NaN in one batch row or channel stays there. Source: docs/math.md section 2.
"""

from typing import no_type_check

import numpy as np

from cssm.shared.compiled import compiled
from cssm.shared.spectral import CONSTANT, FRAMES

from .fft_cpu import backward, forward
from .lanes import (
    BYTES,
    conj,
    flush_denormals,
    join,
    kept,
    lane_count,
    load,
    load_real,
    restore_denormals,
    store,
    store_real,
    times_minus_i,
)


def tasks(batch: int, channels: int, double: bool) -> int:
    """How many tasks there are.

    >>> tasks(2, 24, False), tasks(1, 32, True)
    (3, 4)
    """
    return -(-batch * channels // (BYTES // (8 if double else 4)))


@compiled
@no_type_check
def aligned(like, count):
    """`count` numbers of the precision of `like` whose address is a multiple of 64."""
    room = np.empty(count + 64, like.dtype)
    skip = (-np.int64(room.ctypes.data) % 64) // room.itemsize
    return room[skip : skip + count]


@compiled
@no_type_check
def lane_offsets(like, task, batch, channels, row, channel):
    """Per lane: where its batch row and channel begin, rows `row` numbers apart and channels `channel`; and how many
    lanes are in use: the others read what the first reads, and write nothing."""
    lanes = lane_count(like)
    offsets = np.empty(lanes, np.int64)
    used = min(lanes, batch * channels - task * lanes)
    for lane in range(lanes):
        pair = task * lanes + (lane if lane < used else 0)
        offsets[lane] = pair // channels * row + pair % channels * channel
    return offsets, used


@compiled
@no_type_check
def neighbours(offsets, used):
    """Whether all lanes are in use and lie side by side."""
    return used == offsets.shape[0] and offsets[-1] - offsets[0] == used - 1  # they grow from lane to lane


@compiled
@no_type_check
def gather(array, offsets, at, lanes):
    for lane in range(offsets.shape[0]):
        lanes[lane] = array[offsets[lane] + at]


@compiled
@no_type_check
def scatter(array, offsets, used, at, lanes):
    for lane in range(used):
        array[offsets[lane] + at] = lanes[lane]


@compiled
@no_type_check
def take_in(spectrum, offsets, height, half, order, target, pair):
    """Complex numbers (..., H, Wf), as pairs of reals, into the layout of a task; `pair` is scratch of 2 lanes."""
    lanes = lane_count(target)
    for i in range(height):
        for k in range(half):
            at = 2 * (order[i] * half + k)
            for lane in range(lanes):
                pair[lane] = spectrum[offsets[lane] + at]
                pair[lanes + lane] = spectrum[offsets[lane] + at + 1]
            store(target, (k * (height + 1) + i) * 2 * lanes, load(pair, 0))


@compiled
@no_type_check
def give_out(source, spectrum, offsets, used, height, half, order, pair):
    """The way back of `take_in`."""
    lanes = lane_count(source)
    for i in range(height):
        for k in range(half):
            at = 2 * (order[i] * half + k)
            store(pair, 0, load(source, (k * (height + 1) + i) * 2 * lanes))
            for lane in range(used):
                spectrum[offsets[lane] + at] = pair[lane]
                spectrum[offsets[lane] + at + 1] = pair[lanes + lane]


@compiled
@no_type_check
def rows_in(x, offsets, side_by_side, at, height, width, channels, row, target, stages, rotations, place, work, lanes):
    """The transform along rows of the frame at offset `at` of x, into columns of `target`."""
    wide = 2 * lane_count(x)
    half, first = width // 2 + 1, offsets[0]
    for h in range(0, height, 2):
        pixel, below = at + h * width * channels, at + (h + 1) * width * channels
        two = h + 1 < height
        for w in range(width):
            if side_by_side:
                re = load_real(x, first + pixel)
                im = load_real(x, first + below) if two else re * 0.0
            else:
                gather(x, offsets, pixel, lanes)
                re = load_real(lanes, 0)
                if two:
                    gather(x, offsets, below, lanes)
                    im = load_real(lanes, 0)
                else:
                    im = re * 0.0
            store(row, w * wide, join(re * 0.5, im * 0.5))
            pixel += channels
            below += channels
        forward(row, 0, width, stages, rotations, work)
        for k in range(half):
            a, b = load(row, place[k] * wide), conj(load(row, place[width - k if k else 0] * wide))
            o = (k * (height + 1) + h) * wide
            store(target, o, a + b)
            if two:
                store(target, o + wide, times_minus_i(a - b))


@compiled
@no_type_check
def rows_out(
    source, y, offsets, used, side_by_side, at, height, width, channels, row, stages, rotations, place, work, lanes
):
    """The way back of `rows_in`, divided by H W."""
    wide = 2 * lane_count(y)
    half, first, scale = width // 2 + 1, offsets[0], 1.0 / (height * width)
    for h in range(0, height, 2):
        two = h + 1 < height
        for k in range(half):
            o = (k * (height + 1) + h) * wide
            a = load(source, o)
            b = load(source, o + wide) if two else a * 0.0
            if k == 0 or 2 * k == width:  # numbers of a real row: what is imaginary is not read
                store(row, place[k] * wide, join(a.re, b.re))
            else:
                store(row, place[k] * wide, a - times_minus_i(b))
                store(row, place[width - k] * wide, conj(a) - times_minus_i(conj(b)))
        backward(row, 0, width, stages, rotations, work)
        pixel, below = at + h * width * channels, at + (h + 1) * width * channels
        for w in range(width):
            value = load(row, w * wide) * scale
            if side_by_side:
                store_real(y, first + pixel, value.re)
                if two:
                    store_real(y, first + below, value.im)
            else:
                store_real(lanes, 0, value.re)
                scatter(y, offsets, used, pixel, lanes)
                if two:
                    store_real(lanes, 0, value.im)
                    scatter(y, offsets, used, below, lanes)
            pixel += channels
            below += channels


@compiled
@no_type_check
def scan(
    task, x, given, spectrum, state, reset, y, final, total, slope, slope_total,
    batch, steps, height, width, channels, source, every_frame, reverse, totals, slopes,
    stages, rotations, place, work_size, tall_stages, tall_rotations, tall_order,
):  # fmt: skip
    """One task of S_t = K S_{t-1} + X_t over all frames, or of its adjoint.

    x (B T H W C,) and y likewise, y of one frame unless every_frame; spectrum (C H Wf 2,), given, state, final, total,
    slope, slope_total (B C H Wf 2,) pairs of reals; reset (B, T), or of no size. `source` says what X is: that of x,
    0, or `given`. totals: also the sum of the states; y is then their mean. slopes: also P = dS/dK, and its sum.
    reverse: from the last frame on, s_t = conj(K) s_{t+1} + X_t where frame t + 1 is no reset; it starts from s =
    `state` + X without a product, and ends with that of conj(K).
    """
    control, lanes = flush_denormals(), lane_count(x)
    wide, half = 2 * lanes, width // 2 + 1
    size = half * (height + 1) * wide
    frame = height * width * channels
    offsets, used = lane_offsets(x, task, batch, channels, steps * frame, 1)
    shown, _ = lane_offsets(x, task, batch, channels, frame * (steps if every_frame else 1), 1)
    spectra, _ = lane_offsets(x, task, batch, channels, 2 * channels * height * half, 2 * height * half)
    kernels, _ = lane_offsets(x, task, batch, channels, 0, 2 * height * half)
    resets, _ = lane_offsets(x, task, batch, channels, steps, 0)
    side_by_side = neighbours(offsets, used)
    room = aligned(x, (4 + totals + slopes * (1 + totals)) * size + width * wide + work_size * wide + 3 * lanes)
    K, S, Z, U = room[:size], room[size : 2 * size], room[2 * size : 3 * size], room[3 * size : 4 * size]
    room = room[4 * size :]
    row, work, buffer, alive = (
        room[: width * wide], room[width * wide : (width + work_size) * wide],
        room[(width + work_size) * wide :][:wide], room[(width + work_size) * wide :][wide : wide + lanes],
    )  # fmt: skip
    room = room[(width + work_size) * wide + 3 * lanes :]
    M, P, Q = room[:size], room[totals * size :][:size], room[(totals + 1) * size :][:size]
    take_in(spectrum, kernels, height, half, tall_order, K, buffer)
    take_in(state, spectra, height, half, tall_order, S, buffer)
    if source == CONSTANT:
        take_in(given, spectra, height, half, tall_order, U, buffer)
    for i in range(totals * size):
        M[i] = 0
    for i in range(slopes * size):
        P[i] = 0
    for i in range(slopes * totals * size):
        Q[i] = 0
    restarts = reset.size > 0
    for i in range(lanes):
        alive[i] = 1
    if reverse:
        for i in range(0, size, wide):
            store(K, i, conj(load(K, i)))
    for n in range(steps):
        t = steps - 1 - n if reverse else n
        if source == FRAMES:
            rows_in(
                x, offsets, side_by_side, t * frame, height, width, channels, row, Z, stages, rotations, place,
                work, buffer,
            )  # fmt: skip
        if restarts and not reverse:
            for lane in range(lanes):
                alive[lane] = 0 if reset[resets[lane] + t] else 1
        if restarts and reverse and n > 0:
            for lane in range(lanes):
                alive[lane] = 0 if reset[resets[lane] + t + 1] else 1
        keep = load_real(alive, 0)
        for k in range(half):
            column = k * (height + 1) * wide
            if source == FRAMES:
                forward(Z, column, height, tall_stages, tall_rotations, work)
            for o in range(column, column + height * wide, wide):
                s, gain = load(S, o), load(K, o)
                if slopes:
                    p = gain * load(P, o) + s
                    p = kept(p, keep) if restarts else p
                    store(P, o, p)
                    if totals:
                        store(Q, o, load(Q, o) + p)
                if not (reverse and n == 0):
                    s = gain * s
                    s = kept(s, keep) if restarts else s
                if source == FRAMES:
                    s = s + load(Z, o)
                elif source == CONSTANT:
                    s = s + load(U, o)
                store(S, o, s)
                if totals:
                    store(M, o, load(M, o) + s)
                if every_frame:
                    store(Z, o, s)
            if every_frame:
                backward(Z, column, height, tall_stages, tall_rotations, work)
        if every_frame:
            rows_out(
                Z, y, shown, used, side_by_side, t * frame, height, width, channels, row, stages, rotations, place,
                work, buffer,
            )  # fmt: skip
    if reverse:
        if restarts:
            for lane in range(lanes):
                alive[lane] = 0 if reset[resets[lane]] else 1
        keep = load_real(alive, 0)
        for o in range(0, size, wide):
            s = load(K, o) * load(S, o)
            store(S, o, kept(s, keep) if restarts else s)
    give_out(S, final, spectra, used, height, half, tall_order, buffer)
    if totals:
        give_out(M, total, spectra, used, height, half, tall_order, buffer)
    if slopes:
        give_out(P, slope, spectra, used, height, half, tall_order, buffer)
        if totals:
            give_out(Q, slope_total, spectra, used, height, half, tall_order, buffer)
    if not every_frame:
        for k in range(half):
            column = k * (height + 1) * wide
            for o in range(column, column + height * wide, wide):
                store(Z, o, load(M, o) * (1.0 / steps) if totals else load(S, o))
            backward(Z, column, height, tall_stages, tall_rotations, work)
        rows_out(
            Z, y, shown, used, side_by_side, 0, height, width, channels, row, stages, rotations, place, work, buffer
        )
    restore_denormals(control)


@compiled
@no_type_check
def kernel_gradient(
    task, x, g, spectrum, state, last, reset, out, batch, steps, height, width, channels,
    stages, rotations, place, work_size, tall_stages, tall_rotations, tall_order,
):  # fmt: skip
    """One task of sum_t G_t P*_t, `last` (B C H Wf 2,) added to G of the last frame, into out (B C H Wf 2,).

    With s_t the cotangents of the states this is sum_t s_t S*_{t-1}, without their history: see ops/spectral/README.md.
    """
    control, lanes = flush_denormals(), lane_count(x)
    wide, half = 2 * lanes, width // 2 + 1
    size = half * (height + 1) * wide
    frame = height * width * channels
    offsets, used = lane_offsets(x, task, batch, channels, steps * frame, 1)
    spectra, _ = lane_offsets(x, task, batch, channels, 2 * channels * height * half, 2 * height * half)
    kernels, _ = lane_offsets(x, task, batch, channels, 0, 2 * height * half)
    resets, _ = lane_offsets(x, task, batch, channels, steps, 0)
    side_by_side = neighbours(offsets, used)
    room = aligned(x, 7 * size + (width + work_size) * wide + 3 * lanes)
    K, S, Z = room[:size], room[size : 2 * size], room[2 * size : 3 * size]
    G, P, D = room[3 * size : 4 * size], room[4 * size : 5 * size], room[5 * size : 6 * size]
    L = room[6 * size : 7 * size]
    room = room[7 * size :]
    row, work = room[: width * wide], room[width * wide : (width + work_size) * wide]
    buffer = room[(width + work_size) * wide :][:wide]
    alive = room[(width + work_size) * wide :][wide : wide + lanes]
    take_in(spectrum, kernels, height, half, tall_order, K, buffer)
    take_in(state, spectra, height, half, tall_order, S, buffer)
    take_in(last, spectra, height, half, tall_order, L, buffer)
    for i in range(size):
        P[i], D[i] = 0, 0
    restarts = reset.size > 0
    for i in range(lanes):
        alive[i] = 1
    for t in range(steps):
        rows_in(
            x, offsets, side_by_side, t * frame, height, width, channels, row, Z, stages, rotations, place, work, buffer
        )
        rows_in(
            g, offsets, side_by_side, t * frame, height, width, channels, row, G, stages, rotations, place, work, buffer
        )
        if restarts:
            for lane in range(lanes):
                alive[lane] = 0 if reset[resets[lane] + t] else 1
        keep = load_real(alive, 0)
        for k in range(half):
            column = k * (height + 1) * wide
            forward(Z, column, height, tall_stages, tall_rotations, work)
            forward(G, column, height, tall_stages, tall_rotations, work)
            for o in range(column, column + height * wide, wide):
                s, gain = load(S, o), load(K, o)
                p, s = gain * load(P, o) + s, gain * s
                if restarts:
                    p, s = kept(p, keep), kept(s, keep)
                store(P, o, p)
                store(S, o, s + load(Z, o))
                store(D, o, load(D, o) + load(G, o) * conj(p))
    for k in range(half):
        column = k * (height + 1) * wide
        for o in range(column, column + height * wide, wide):
            store(D, o, load(D, o) + load(L, o) * conj(load(P, o)))
    give_out(D, out, spectra, used, height, half, tall_order, buffer)
    restore_denormals(control)


@compiled
@no_type_check
def to_spectrum(
    task, x, out, batch, height, width, channels,
    stages, rotations, place, work_size, tall_stages, tall_rotations, tall_order,
):  # fmt: skip
    """One task of rfft2: x (B H W C,), out (B C H Wf 2,) pairs of reals."""
    control, lanes = flush_denormals(), lane_count(x)
    wide, half = 2 * lanes, width // 2 + 1
    size = half * (height + 1) * wide
    offsets, used = lane_offsets(x, task, batch, channels, height * width * channels, 1)
    spectra, _ = lane_offsets(x, task, batch, channels, 2 * channels * height * half, 2 * height * half)
    room = aligned(x, size + (width + work_size) * wide + wide)
    Z, row, work = room[:size], room[size:][: width * wide], room[size + width * wide :][: work_size * wide]
    buffer = room[size + (width + work_size) * wide :]
    rows_in(
        x, offsets, neighbours(offsets, used), 0, height, width, channels, row, Z, stages, rotations, place, work,
        buffer,
    )  # fmt: skip
    for k in range(half):
        forward(Z, k * (height + 1) * wide, height, tall_stages, tall_rotations, work)
    give_out(Z, out, spectra, used, height, half, tall_order, buffer)
    restore_denormals(control)


@compiled
@no_type_check
def to_space(
    task, spectrum, y, batch, height, width, channels,
    stages, rotations, place, work_size, tall_stages, tall_rotations, tall_order,
):  # fmt: skip
    """One task of irfft2: spectrum (B C H Wf 2,) pairs of reals, y (B H W C,)."""
    control, lanes = flush_denormals(), lane_count(y)
    wide, half = 2 * lanes, width // 2 + 1
    size = half * (height + 1) * wide
    offsets, used = lane_offsets(y, task, batch, channels, height * width * channels, 1)
    spectra, _ = lane_offsets(y, task, batch, channels, 2 * channels * height * half, 2 * height * half)
    room = aligned(y, size + (width + work_size) * wide + wide)
    Z, row, work = room[:size], room[size:][: width * wide], room[size + width * wide :][: work_size * wide]
    buffer = room[size + (width + work_size) * wide :]
    take_in(spectrum, spectra, height, half, tall_order, Z, buffer)
    for k in range(half):
        backward(Z, k * (height + 1) * wide, height, tall_stages, tall_rotations, work)
    rows_out(
        Z, y, offsets, used, neighbours(offsets, used), 0, height, width, channels, row, stages, rotations, place, work,
        buffer,
    )  # fmt: skip
    restore_denormals(control)


@compiled
@no_type_check
def scan_some(first, count, step, arguments):
    """Tasks first, first + step, ... below `count` of `scan`: one call of Python for all tasks of a thread."""
    for task in range(first, count, step):
        scan(task, *arguments)


@compiled
@no_type_check
def kernel_gradient_some(first, count, step, arguments):
    """Likewise of `kernel_gradient`."""
    for task in range(first, count, step):
        kernel_gradient(task, *arguments)
