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

from cssm.shared.compiled import inner
from cssm.shared.spectral import CONSTANT, FRAMES, PRODUCTS

from .fft_cpu import backward, forward
from .lanes import (
    BYTES,
    conj,
    drain,
    flush_denormals,
    join,
    kept,
    lane_count,
    load,
    load_real,
    restore_denormals,
    store,
    store_real,
    stream_real,
    times_minus_i,
    transpose,
)

START = np.int64(0)  # a literal 0 would be another type, for which numba compiles the transforms once more
STREAMED = 4 << 20  # bytes of an output from which on it is written past the caches


def tasks(batch: int, channels: int, double: bool) -> int:
    """How many tasks there are.

    >>> tasks(2, 24, False), tasks(1, 32, True)
    (3, 4)
    """
    return -(-batch * channels // (BYTES // (8 if double else 4)))


@inner
@no_type_check
def aligned(like, count):
    """`count` numbers of the precision of `like` whose address is a multiple of 64."""
    room = np.empty(count + 64, like.dtype)
    skip = (-np.int64(room.ctypes.data) % 64) // room.itemsize
    return room[skip : skip + count]


@inner
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


@inner
@no_type_check
def neighbours(offsets, used):
    """Whether all lanes are in use and lie side by side."""
    return used == offsets.shape[0] and offsets[-1] - offsets[0] == used - 1  # they grow from lane to lane


@inner
@no_type_check
def beyond_caches(y, channels):
    """Whether y is so large that its lines are better written past the caches, and made of whole lines: a line that is
    to be overwritten is read first, and its neighbour, which is another task's, with it."""
    bytes_each = y.itemsize
    return y.size * bytes_each >= STREAMED and y.ctypes.data % BYTES == 0 and channels * bytes_each % BYTES == 0


@inner
@no_type_check
def gather(array, offsets, at, lanes):
    for lane in range(offsets.shape[0]):
        lanes[lane] = array[offsets[lane] + at]


@inner
@no_type_check
def scatter(array, offsets, used, at, lanes):
    for lane in range(used):
        array[offsets[lane] + at] = lanes[lane]


@inner
@no_type_check
def turned_in(spectrum, offsets, first, many, square):
    """Complex numbers first .. first + many of every lane, in `square` (lanes x lanes numbers) number by number; many
    is at most lanes / 2."""
    lanes = offsets.shape[0]
    for lane in range(lanes):
        at = offsets[lane] + 2 * first
        if 2 * many == lanes:
            store_real(square, lane * lanes, load_real(spectrum, at))
        else:
            for i in range(2 * many):
                square[lane * lanes + i] = spectrum[at + i]
    transpose(square)


@inner
@no_type_check
def turned_out(square, spectrum, offsets, used, first, many):
    """The way back of `turned_in`, for the lanes in use."""
    lanes = offsets.shape[0]
    transpose(square)
    for lane in range(used):
        at = offsets[lane] + 2 * first
        if 2 * many == lanes:
            store_real(spectrum, at, load_real(square, lane * lanes))
        else:
            for i in range(2 * many):
                spectrum[at + i] = square[lane * lanes + i]


@inner
@no_type_check
def take_in(spectrum, offsets, height, half, place, target, square):
    """Complex numbers (..., H, Wf), as pairs of reals, into the layout of a task; `square` is scratch."""
    wide, block, count = 2 * lane_count(target), lane_count(target) // 2, height * half
    for first in range(0, count, block):
        many = min(block, count - first)
        turned_in(spectrum, offsets, first, many, square)
        for i in range(many):
            h, k = (first + i) // half, (first + i) % half
            store(target, (k * (height + 1) + place[h]) * wide, load(square, i * wide))


@inner
@no_type_check
def give_out(source, spectrum, offsets, used, height, half, place, square):
    """The way back of `take_in`."""
    wide, block, count = 2 * lane_count(source), lane_count(source) // 2, height * half
    for first in range(0, count, block):
        many = min(block, count - first)
        for i in range(many):
            h, k = (first + i) // half, (first + i) % half
            store(square, i * wide, load(source, (k * (height + 1) + place[h]) * wide))
        turned_out(square, spectrum, offsets, used, first, many)


@inner
@no_type_check
def rows_in(x, offsets, side_by_side, at, frame, row, target, plan, work, lanes):
    """The transform along rows of the frame at offset `at` of x, into columns of `target`."""
    (height, width, channels), (stages, rotations, place), wide = frame, plan, 2 * lane_count(x)
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
        forward(row, START, width, stages, rotations, work)
        for k in range(half):
            a, b = load(row, place[k] * wide), conj(load(row, place[width - k if k else 0] * wide))
            o = (k * (height + 1) + h) * wide
            store(target, o, a + b)
            if two:
                store(target, o + wide, times_minus_i(a - b))


@inner
@no_type_check
def rows_out(source, y, offsets, used, side_by_side, past, at, frame, row, plan, work, lanes):
    """The way back of `rows_in`, divided by H W; `past` writes past the caches."""
    (height, width, channels), (stages, rotations, place), wide = frame, plan, 2 * lane_count(y)
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
        backward(row, START, width, stages, rotations, work)
        pixel, below = at + h * width * channels, at + (h + 1) * width * channels
        for w in range(width):
            value = load(row, w * wide) * scale
            if past:
                stream_real(y, first + pixel, value.re)
                if two:
                    stream_real(y, first + below, value.im)
            elif side_by_side:
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


@inner
@no_type_check
def scan(
    task, x, given, spectrum, state, reset, seen, before, y, final, total, slope, slope_total,
    batch, steps, frame, source, every_frame, reverse, totals, slopes, across, along, work_size,
):  # fmt: skip
    """One task of S_t = K S_{t-1} + X_t over all frames, or of its adjoint.

    x, seen (B T H W C,) and y likewise, y of one frame unless every_frame; spectrum (C H Wf 2,); given, state, before,
    final, total, slope, slope_total (B C H Wf 2,) pairs of reals; reset (B, T), or of no size. `source` says what X is:
    that of x, 0, or `given`. totals: also the sum of the states; y is then their mean. slopes: also P = dS/dK, and its
    sum. reverse: from the last frame on, s_t = conj(K) s_{t+1} + X_t where frame t + 1 is no reset; it starts from s =
    `state` + X without a product, and ends with that of conj(K). Then slopes = PRODUCTS makes `slope` the sum over t of
    conj(rfft2(seen_t)) P_t, with P_t = conj(K) P_{t+1} + s_{t+1}, and of conj(before) P at its end: that of s_t
    S*_{t-1}, without the history of S. frame: H, W, C; across, along: the plans of its rows and columns.
    """
    height, width, channels = frame
    tall, tall_rotations, order = along
    control, lanes = flush_denormals(), lane_count(x)
    wide, half = 2 * lanes, width // 2 + 1
    size = half * (height + 1) * wide
    pixels = height * width * channels
    products = slopes == PRODUCTS
    offsets, used = lane_offsets(x, task, batch, channels, steps * pixels, 1)
    shown, _ = lane_offsets(x, task, batch, channels, pixels * (steps if every_frame else 1), 1)
    spectra, _ = lane_offsets(x, task, batch, channels, 2 * channels * height * half, 2 * height * half)
    kernels, _ = lane_offsets(x, task, batch, channels, 0, 2 * height * half)
    resets, _ = lane_offsets(x, task, batch, channels, steps, 0)
    side_by_side = neighbours(offsets, used)
    past = side_by_side and beyond_caches(y, channels)
    kinds = 4 + totals + (slopes > 0) * (1 + totals) + 2 * products
    room = aligned(x, kinds * size + (width + work_size + lanes) * wide)
    K, S, Z, U = room[:size], room[size : 2 * size], room[2 * size : 3 * size], room[3 * size : 4 * size]
    row, work = room[kinds * size :][: width * wide], room[kinds * size + width * wide :][: work_size * wide]
    square = room[kinds * size + (width + work_size) * wide :][: lanes * lanes]
    alive = room[kinds * size + (width + work_size) * wide + lanes * lanes :][:lanes]
    room = room[4 * size : kinds * size]
    for i in range(room.shape[0]):
        room[i] = 0
    M, P, Q = room[:size], room[totals * size :][:size], room[(totals + 1) * size :][:size]
    D, seen_now = room[size : 2 * size], room[2 * size : 3 * size]  # of products, where there are no totals
    take_in(spectrum, kernels, height, half, order, K, square)
    take_in(state, spectra, height, half, order, S, square)
    if source == CONSTANT:
        take_in(given, spectra, height, half, order, U, square)
    restarts = reset.size > 0
    for i in range(lanes):
        alive[i] = 1
    if reverse:
        for i in range(0, size, wide):
            store(K, i, conj(load(K, i)))
    for n in range(steps):
        t = steps - 1 - n if reverse else n
        if source == FRAMES:
            rows_in(x, offsets, side_by_side, t * pixels, frame, row, Z, across, work, square)
        if products:
            rows_in(seen, offsets, side_by_side, t * pixels, frame, row, seen_now, across, work, square)
        if restarts and not (reverse and n == 0):
            for lane in range(lanes):
                alive[lane] = 0 if reset[resets[lane] + t + (1 if reverse else 0)] else 1
        keep = load_real(alive, 0)
        for k in range(half):
            column = k * (height + 1) * wide
            if source == FRAMES:
                forward(Z, column, height, tall, tall_rotations, work)
            if products:
                forward(seen_now, column, height, tall, tall_rotations, work)
            for o in range(column, column + height * wide, wide):
                s, gain = load(S, o), load(K, o)
                if slopes and not (reverse and n == 0):
                    p = gain * load(P, o) + s
                    p = kept(p, keep) if restarts else p
                    store(P, o, p)
                    if totals:
                        store(Q, o, load(Q, o) + p)
                    if products:
                        store(D, o, load(D, o) + conj(load(seen_now, o)) * p)
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
                backward(Z, column, height, tall, tall_rotations, work)
        if every_frame:
            rows_out(Z, y, shown, used, side_by_side, past, t * pixels, frame, row, across, work, square)
    if reverse:
        if restarts:
            for lane in range(lanes):
                alive[lane] = 0 if reset[resets[lane]] else 1
        keep = load_real(alive, 0)
        if products:
            take_in(before, spectra, height, half, order, seen_now, square)
        for o in range(0, size, wide):
            s, gain = load(S, o), load(K, o)
            if products:
                p = gain * load(P, o) + s
                p = kept(p, keep) if restarts else p
                store(D, o, load(D, o) + conj(load(seen_now, o)) * p)
            s = gain * s
            store(S, o, kept(s, keep) if restarts else s)
    give_out(S, final, spectra, used, height, half, order, square)
    if totals:
        give_out(M, total, spectra, used, height, half, order, square)
    if slopes:
        give_out(D if products else P, slope, spectra, used, height, half, order, square)
        if totals:
            give_out(Q, slope_total, spectra, used, height, half, order, square)
    if not every_frame:
        for k in range(half):
            column = k * (height + 1) * wide
            for o in range(column, column + height * wide, wide):
                store(Z, o, load(M, o) * (1.0 / steps) if totals else load(S, o))
            backward(Z, column, height, tall, tall_rotations, work)
        rows_out(Z, y, shown, used, side_by_side, False, 0, frame, row, across, work, square)  # fmt: skip
    if past:
        drain()
    restore_denormals(control)


@inner
@no_type_check
def to_spectrum(task, x, out, batch, frame, across, along, work_size):
    """One task of rfft2: x (B H W C,), out (B C H Wf 2,) pairs of reals."""
    control, lanes = flush_denormals(), lane_count(x)
    (height, width, channels), (stages, rotations, order) = frame, along
    wide, half = 2 * lanes, width // 2 + 1
    size = half * (height + 1) * wide
    offsets, used = lane_offsets(x, task, batch, channels, height * width * channels, 1)
    spectra, _ = lane_offsets(x, task, batch, channels, 2 * channels * height * half, 2 * height * half)
    room = aligned(x, size + (width + work_size) * wide + lanes * lanes)
    Z, row, work = room[:size], room[size:][: width * wide], room[size + width * wide :][: work_size * wide]
    square = room[size + (width + work_size) * wide :]
    rows_in(x, offsets, neighbours(offsets, used), 0, frame, row, Z, across, work, square)
    for k in range(half):
        forward(Z, k * (height + 1) * wide, height, stages, rotations, work)
    give_out(Z, out, spectra, used, height, half, order, square)
    restore_denormals(control)


@inner
@no_type_check
def to_space(task, spectrum, y, batch, frame, across, along, work_size):
    """One task of irfft2: spectrum (B C H Wf 2,) pairs of reals, y (B H W C,)."""
    control, lanes = flush_denormals(), lane_count(y)
    (height, width, channels), (stages, rotations, order) = frame, along
    wide, half = 2 * lanes, width // 2 + 1
    size = half * (height + 1) * wide
    offsets, used = lane_offsets(y, task, batch, channels, height * width * channels, 1)
    spectra, _ = lane_offsets(y, task, batch, channels, 2 * channels * height * half, 2 * height * half)
    room = aligned(y, size + (width + work_size) * wide + lanes * lanes)
    Z, row, work = room[:size], room[size:][: width * wide], room[size + width * wide :][: work_size * wide]
    square = room[size + (width + work_size) * wide :]
    take_in(spectrum, spectra, height, half, order, Z, square)
    for k in range(half):
        backward(Z, k * (height + 1) * wide, height, stages, rotations, work)
    rows_out(Z, y, offsets, used, neighbours(offsets, used), False, 0, frame, row, across, work, square)
    restore_denormals(control)
