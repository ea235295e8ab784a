"""A spectral cell compiled for CPUs: fields in, a recurrence with gates per frame on their spectra, fields out.

As `spectral_cpu`: a task owns one batch row and 64 bytes of channels, and takes every frame through transform, cell and
inverse transform in cache. `cells` keeps the states before every `segment`-th frame; `cells_back` runs a segment again
from there, holding its spectra, and then backward through it. Source: docs/math.md sections 2, 3; ops/cell/README.md.
"""

from typing import no_type_check

import numpy as np

from cssm.shared.compiled import inner

from .cell_columns import advance, retreat
from .fft_cpu import backward, forward
from .lanes import drain, flush_denormals, kept, lane_count, load, load_real, restore_denormals, store, store_real
from .spectral_cpu import aligned, beyond_caches, give_out, neighbours, rows_in, rows_out, take_in

# What the helpers are given beside their arrays: mine = (first channel, channels in use, channels), grid = (height,
# width, numbers of one spectrum of a task), tools = (plan of rows, order of columns, a row, work, a square of lanes)


@inner
@no_type_check
def owned(like, task, channels):
    """The batch row of a task, its first channel, and the channels in use."""
    lanes = lane_count(like)
    tasks = (channels + lanes - 1) // lanes
    first = task % tasks * lanes
    return task // tasks, first, min(lanes, channels - first)


@inner
@no_type_check
def copy(source, at, target, to, count):
    """In place of an assignment of slices, whose check of shapes takes numba a second to compile."""
    for i in range(0, count, lane_count(target)):
        store_real(target, to + i, load_real(source, at + i))


@inner
@no_type_check
def spread(like, begin, used, apart):
    """Where each lane begins, `apart` numbers apart; lanes not in use read what the first reads."""
    offsets = np.empty(lane_count(like), np.int64)
    for lane in range(offsets.shape[0]):
        offsets[lane] = begin + (lane if lane < used else 0) * apart
    return offsets


@inner
@no_type_check
def fields_in(x, frame, many, mine, grid, Z, tools):
    """Frame number `frame` of all, of `many` fields: its transforms along rows."""
    (first, used, channels), (height, width, size), (plan, _, row, work, square) = mine, grid, tools
    shape = height, width, many * channels
    for j in range(many):
        offsets = spread(x, first + j * channels, used, 1)
        rows_in(
            x, offsets, neighbours(offsets, used), frame * height * width * many * channels, shape, row,
            Z[j * size : (j + 1) * size], plan, work, square,
        )  # fmt: skip


@inner
@no_type_check
def fields_out(Z, y, frame, many, mine, grid, past, tools):
    """The way back of `fields_in`."""
    (first, used, channels), (height, width, size), (plan, _, row, work, square) = mine, grid, tools
    shape = height, width, many * channels
    for j in range(many):
        offsets = spread(y, first + j * channels, used, 1)
        side_by_side = neighbours(offsets, used)
        rows_out(
            Z[j * size : (j + 1) * size], y, offsets, used, side_by_side, past and side_by_side,
            frame * height * width * many * channels, shape, row, plan, work, square,
        )  # fmt: skip


@inner
@no_type_check
def spectra_in(spectra, number, many, mine, grid, target, tools):
    """Number `number` of arrays (many, C, H, Wf) of pairs of reals, in the layout of a task."""
    (first, used, channels), (height, width, size), (_, order, _, _, square) = mine, grid, tools
    half = width // 2 + 1
    apart = 2 * height * half
    for j in range(many):
        offsets = spread(target, ((number * many + j) * channels + first) * apart, used, apart)
        take_in(spectra, offsets, height, half, order, target[j * size : (j + 1) * size], square)


@inner
@no_type_check
def spectra_out(source, spectra, number, many, mine, grid, tools):
    """The way back of `spectra_in`."""
    (first, used, channels), (height, width, size), (_, order, _, _, square) = mine, grid, tools
    half = width // 2 + 1
    apart = 2 * height * half
    for j in range(many):
        offsets = spread(source, ((number * many + j) * channels + first) * apart, used, apart)
        give_out(source[j * size : (j + 1) * size], spectra, offsets, used, height, half, order, square)


@inner
@no_type_check
def gates_in(gates, frame, many, mine, A):
    """Gates of one frame, a vector each."""
    (first, used, channels), lanes = mine, lane_count(A)
    for j in range(many):
        for lane in range(lanes):
            A[j * lanes + lane] = gates[(frame * many + j) * channels + first + (lane if lane < used else 0)]


@inner
@no_type_check
def cells(
    task, x, planes, gates, statics, state, reset, constants, y, final, starts, steps, shape, kind, few, counts,
    shown, segment, across, along, work_size,
):  # fmt: skip
    """One task of a cell over all frames.

    x (B T H W I C,), planes (B T Wf P H,) with rows in the order of the plan, gates (B T A C,), reset (B, T) or of no
    size; statics (K C H Wf 2,), state and final (B S C H Wf 2,) pairs of reals; y (B T H W O C,), if shown; starts: per
    task, of every `segment` frames the states before the first, as they lie here; none at segment = 0. shape: H, W, C.
    counts: `cssm.shared.cell.Counts`.
    """
    (height, width, channels), (tall, rotations, order) = shape, along
    inputs, outputs, states, static, plane, gate = counts
    control, lanes = flush_denormals(), lane_count(x)
    wide, half = 2 * lanes, width // 2 + 1
    size = half * (height + 1) * wide
    row_of, first, used = owned(x, task, channels)
    room = aligned(x, (static + inputs + states + outputs) * size + (width + work_size + lanes + gate) * wide)
    K, room = room[: static * size], room[static * size :]
    Z, room = room[: inputs * size], room[inputs * size :]
    S, room = room[: states * size], room[states * size :]
    Y, room = room[: outputs * size], room[outputs * size :]
    row, room = room[: width * wide], room[width * wide :]
    work, room = room[: work_size * wide], room[work_size * wide :]
    A, square = room[: gate * lanes], room[gate * lanes :]
    mine, grid, tools = (first, used, channels), (height, width, size), (across, order, row, work, square)
    spectra_in(statics, 0, static, mine, grid, K, tools)
    spectra_in(state, row_of, states, mine, grid, S, tools)
    past = shown > 0 and beyond_caches(y, outputs * channels)
    segments = (steps + segment - 1) // segment if segment else 0
    for t in range(steps):
        now = row_of * steps + t
        if segment and t % segment == 0:
            copy(S, 0, starts, (task * segments + t // segment) * states * size, states * size)
        if reset.size and reset[now]:
            S[:] = 0
        fields_in(x, now, inputs, mine, grid, Z, tools)
        gates_in(gates, now, gate, mine, A)
        for k in range(half):
            column = k * (height + 1) * wide
            for j in range(inputs):
                forward(Z, j * size + column, height, tall, rotations, work)
            at = (now * half + k) * plane * height
            advance(kind, few, K, planes, at, A, constants, Z, S, Y, shown, column, height, size)
            if shown:
                for j in range(outputs):
                    backward(Y, j * size + column, height, tall, rotations, work)
        if shown:
            fields_out(Y, y, now, outputs, mine, grid, past, tools)
    spectra_out(S, final, row_of, states, mine, grid, tools)
    if past:
        drain()
    restore_denormals(control)


@inner
@no_type_check
def cells_back(
    task, x, planes, gates, statics, last, reset, constants, starts, given, dx, of_planes, of_gates, of_statics,
    before, steps, shape, kind, few, counts, shown, segment, across, along, work_size,
):  # fmt: skip
    """One task of the gradient of `cells`. last, given: the gradients of final and y; the results those of x, planes
    (per task), gates, statics (per batch row) and state. Spectra and planes stand for gradients over w."""
    (height, width, channels), (tall, rotations, order) = shape, along
    inputs, outputs, states, static, plane, gate = counts
    control, lanes = flush_denormals(), lane_count(x)
    wide, half = 2 * lanes, width // 2 + 1
    size = half * (height + 1) * wide
    row_of, first, used = owned(x, task, channels)
    fields = 2 * static + segment * (inputs + states) + 2 * states + outputs + inputs
    room = aligned(x, fields * size + (width + work_size + lanes + 2 * gate) * wide)
    K, room = room[: static * size], room[static * size :]
    DK, room = room[: static * size], room[static * size :]
    Z, room = room[: segment * inputs * size], room[segment * inputs * size :]
    S, room = room[: segment * states * size], room[segment * states * size :]
    carried, room = room[: states * size], room[states * size :]
    Y, room = room[: outputs * size], room[outputs * size :]
    DZ, room = room[: inputs * size], room[inputs * size :]
    G, room = room[: states * size], room[states * size :]
    row, room = room[: width * wide], room[width * wide :]
    work, room = room[: work_size * wide], room[work_size * wide :]
    A, room = room[: gate * lanes], room[gate * lanes :]
    DA, room = room[: gate * lanes], room[gate * lanes :]  # of one column, then of one frame
    total_of_gates, room = room[: gate * lanes], room[gate * lanes :]
    alive, square = room[:lanes], room[lanes:]
    mine, grid, tools = (first, used, channels), (height, width, size), (across, order, row, work, square)
    spectra_in(statics, 0, static, mine, grid, K, tools)
    spectra_in(last, row_of, states, mine, grid, G, tools)
    DK[:] = 0
    for lane in range(lanes):
        alive[lane] = 1 if lane < used else 0
    if used < lanes:
        only(alive, G, 0, states * size)
    past = beyond_caches(dx, inputs * channels)
    segments = (steps + segment - 1) // segment
    for n in range(segments):
        start = (segments - 1 - n) * segment
        end = min(start + segment, steps)
        copy(starts, (task * segments + segments - 1 - n) * states * size, carried, 0, states * size)
        for t in range(start, end):
            now, i = row_of * steps + t, t - start
            if reset.size and reset[now]:
                carried[:] = 0
            copy(carried, 0, S, i * states * size, states * size)
            z = Z[i * inputs * size :][: inputs * size]
            fields_in(x, now, inputs, mine, grid, z, tools)
            gates_in(gates, now, gate, mine, A)
            for k in range(half):
                column, at = k * (height + 1) * wide, (now * half + k) * plane * height
                for j in range(inputs):
                    forward(z, j * size + column, height, tall, rotations, work)
                if t + 1 < end:
                    advance(kind, few, K, planes, at, A, constants, z, carried, Y, 0, column, height, size)
        for m in range(end - start):
            t = end - 1 - m
            now, i = row_of * steps + t, t - start
            s, z = S[i * states * size :][: states * size], Z[i * inputs * size :][: inputs * size]
            if shown:
                fields_in(given, now, outputs, mine, grid, Y, tools)
            gates_in(gates, now, gate, mine, A)
            total_of_gates[:] = 0
            for k in range(half):
                column, at = k * (height + 1) * wide, (now * half + k) * plane * height
                if shown:
                    for j in range(outputs):
                        forward(Y, j * size + column, height, tall, rotations, work)
                        if used < lanes:
                            only(alive, Y, j * size + column, height * wide)
                DA[:] = 0
                to = ((task * steps + t) * half + k) * plane * height
                retreat(
                    kind, few, K, planes, at, A, constants, z, s, Y, shown, G, of_planes, to, DK, DA, DZ, column,
                    height, size,
                )  # fmt: skip
                stands_for = 1 if k == 0 or 2 * k == width else 2
                for j in range(gate * lanes):
                    total_of_gates[j] += DA[j] * stands_for / (height * width)
                for j in range(inputs):
                    backward(DZ, j * size + column, height, tall, rotations, work)
            fields_out(DZ, dx, now, inputs, mine, grid, past, tools)
            for j in range(gate):
                for lane in range(used):
                    of_gates[(now * gate + j) * channels + first + lane] = total_of_gates[j * lanes + lane]
            if reset.size and reset[now]:
                G[:] = 0
    spectra_out(G, before, row_of, states, mine, grid, tools)
    spectra_out(DK, of_statics, row_of, static, mine, grid, tools)
    if past:
        drain()
    restore_denormals(control)


@inner
@no_type_check
def only(alive, array, at, count):
    """Zeros in lanes not in use: planes are shared, and their gradients summed over lanes."""
    mask = load_real(alive, 0)
    for o in range(at, at + count, 2 * lane_count(array)):
        store(array, o, kept(load(array, o), mask))
