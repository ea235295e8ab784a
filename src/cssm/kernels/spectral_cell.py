"""A spectral cell compiled for CPUs: fields in, a recurrence with gates per frame on their spectra, fields out.

As `spectral_cpu`: a task owns one batch row and 64 bytes of channels, and takes every frame through transform, cell and
inverse transform in cache. `cells` keeps the states before every `segment`-th frame; `cells_back` runs a segment again
from there, holding its spectra, and then backward through it. Source: docs/math.md sections 2, 3; ops/cell/README.md.
"""

from typing import no_type_check

import numpy as np

from cssm.shared.compiled import compiled

from .cell_columns import advance, retreat
from .fft_cpu import backward, forward
from .lanes import drain, flush_denormals, kept, lane_count, load, load_real, restore_denormals, store
from .spectral_cpu import aligned, beyond_caches, give_out, neighbours, rows_in, rows_out, take_in


@compiled
@no_type_check
def owned(like, task, channels):
    """The batch row of a task, its first channel, and the channels in use."""
    lanes = lane_count(like)
    tasks = (channels + lanes - 1) // lanes
    first = task % tasks * lanes
    return task // tasks, first, min(lanes, channels - first)


@compiled
@no_type_check
def spread(like, begin, used, apart):
    """Where each lane begins, `apart` numbers apart; lanes not in use read what the first reads."""
    offsets = np.empty(lane_count(like), np.int64)
    for lane in range(offsets.shape[0]):
        offsets[lane] = begin + (lane if lane < used else 0) * apart
    return offsets


@compiled
@no_type_check
def fields_in(x, begin, used, fields, channels, at, frame, row, Z, first, size, plan, work, square):
    """The transforms along rows of the fields of one frame; pixels are fields * channels numbers apart."""
    for j in range(fields):
        offsets = spread(x, begin + j * channels, used, 1)
        target = Z[(first + j) * size : (first + j + 1) * size]
        rows_in(x, offsets, neighbours(offsets, used), at, frame, row, target, plan, work, square)


@compiled
@no_type_check
def fields_out(Z, y, begin, used, fields, channels, past, at, frame, row, size, plan, work, square):
    """The way back of `fields_in`."""
    for j in range(fields):
        offsets = spread(y, begin + j * channels, used, 1)
        side_by_side = neighbours(offsets, used)
        rows_out(Z[j * size : (j + 1) * size], y, offsets, used, side_by_side, past and side_by_side, at, frame, row, plan, work, square)  # fmt: skip


@compiled
@no_type_check
def spectra_in(spectra, begin, used, many, channels, frequencies, height, half, place, target, size, square):
    """`many` complex numbers (C, H, Wf) each, as pairs of reals, into the layout of a task."""
    for j in range(many):
        offsets = spread(target, begin + j * channels * 2 * frequencies, used, 2 * frequencies)
        take_in(spectra, offsets, height, half, place, target[j * size : (j + 1) * size], square)


@compiled
@no_type_check
def spectra_out(source, spectra, begin, used, many, channels, frequencies, height, half, place, size, square):
    for j in range(many):
        offsets = spread(source, begin + j * channels * 2 * frequencies, used, 2 * frequencies)
        give_out(source[j * size : (j + 1) * size], spectra, offsets, used, height, half, place, square)


@compiled
@no_type_check
def gates_in(gates, begin, used, many, channels, A):
    """Gates of one frame, a vector each."""
    lanes = lane_count(A)
    for j in range(many):
        for lane in range(lanes):
            A[j * lanes + lane] = gates[begin + j * channels + (lane if lane < used else 0)]


@compiled
@no_type_check
def cells(
    task, x, planes, gates, statics, state, reset, constants, y, final, starts, steps, frame, kind, few, counts, shown, segment,
    across, along, work_size,
):  # fmt: skip
    """One task of a cell over all frames.

    x (B T H W I C,), planes (B T Wf P H,) with rows in the order of the plan, gates (B T A C,), reset (B, T) or of no
    size; statics (K C H Wf 2,), state and final (B S C H Wf 2,) pairs of reals; y (B T H W O C,), if shown; starts: per
    task, of every `segment` frames the states before the first, as they lie here; none at segment = 0. frame: H, W, C.
    counts: `cssm.shared.cell.Counts`.
    """
    (height, width, channels), (tall, tall_rotations, order) = frame, along
    inputs, outputs, states, static, plane, gate = counts
    control, lanes = flush_denormals(), lane_count(x)
    wide, half = 2 * lanes, width // 2 + 1
    size, pixels, frequencies = half * (height + 1) * wide, height * width * channels, height * half
    row_of, first, used = owned(x, task, channels)
    fields = static + inputs + states + outputs * shown
    room = aligned(x, fields * size + (width + work_size + lanes + gate) * wide)
    K, room = room[: static * size], room[static * size :]
    Z, room = room[: inputs * size], room[inputs * size :]
    S, room = room[: states * size], room[states * size :]
    Y, room = room[: outputs * shown * size], room[outputs * shown * size :]
    row, room = room[: width * wide], room[width * wide :]
    work, room = room[: work_size * wide], room[work_size * wide :]
    A, square = room[: gate * lanes], room[gate * lanes :]
    spectra_in(statics, first * 2 * frequencies, used, static, channels, frequencies, height, half, order, K, size, square)  # fmt: skip
    begin = (row_of * states * channels + first) * 2 * frequencies
    spectra_in(state, begin, used, states, channels, frequencies, height, half, order, S, size, square)
    incoming, outgoing = (height, width, inputs * channels), (height, width, outputs * channels)
    past = shown and beyond_caches(y, outputs * channels)
    segments = (steps + segment - 1) // segment if segment else 0
    for t in range(steps):
        number = row_of * steps + t
        if segment and t % segment == 0:
            starts[(task * segments + t // segment) * states * size :][: states * size] = S
        if reset.size and reset[number]:
            S[:] = 0
        fields_in(x, first, used, inputs, channels, number * pixels * inputs, incoming, row, Z, 0, size, across, work, square)  # fmt: skip
        gates_in(gates, number * gate * channels + first, used, gate, channels, A)
        for k in range(half):
            column = k * (height + 1) * wide
            for j in range(inputs):
                forward(Z, j * size + column, height, tall, tall_rotations, work)
            at = (number * half + k) * plane * height
            advance(kind, few, K, planes, at, A, constants, Z, S, Y, shown, column, height, size)
            if shown:
                for j in range(outputs):
                    backward(Y, j * size + column, height, tall, tall_rotations, work)
        if shown:
            fields_out(Y, y, first, used, outputs, channels, past, number * pixels * outputs, outgoing, row, size, across, work, square)  # fmt: skip
    spectra_out(S, final, begin, used, states, channels, frequencies, height, half, order, size, square)
    if past:
        drain()
    restore_denormals(control)


@compiled
@no_type_check
def cells_back(
    task, x, planes, gates, statics, last, reset, constants, starts, given, dx, of_planes, of_gates, of_statics,
    before, steps, frame, kind, few, counts, shown, segment, across, along, work_size,
):  # fmt: skip
    """One task of the gradient of `cells`. last, given: the gradients of final and y; the results those of x, planes
    (per task), gates, statics (per batch row) and state. Spectra and planes stand for gradients over w."""
    (height, width, channels), (tall, tall_rotations, order) = frame, along
    inputs, outputs, states, static, plane, gate = counts
    control, lanes = flush_denormals(), lane_count(x)
    wide, half = 2 * lanes, width // 2 + 1
    size, pixels, frequencies = half * (height + 1) * wide, height * width * channels, height * half
    row_of, first, used = owned(x, task, channels)
    held = segment * (inputs + states)
    fields = 2 * static + held + states + outputs * shown + inputs + states
    room = aligned(x, fields * size + (width + work_size + lanes + 2 * gate) * wide + lanes)
    K, room = room[: static * size], room[static * size :]
    DK, room = room[: static * size], room[static * size :]
    Z, room = room[: segment * inputs * size], room[segment * inputs * size :]
    S, room = room[: segment * states * size], room[segment * states * size :]
    now, room = room[: states * size], room[states * size :]
    Y, room = room[: outputs * shown * size], room[outputs * shown * size :]
    DZ, room = room[: inputs * size], room[inputs * size :]
    G, room = room[: states * size], room[states * size :]
    row, room = room[: width * wide], room[width * wide :]
    work, room = room[: work_size * wide], room[work_size * wide :]
    A, room = room[: gate * lanes], room[gate * lanes :]
    DA, room = room[: gate * lanes], room[gate * lanes :]  # of one column, then of one frame
    of_gates_now, room = room[: gate * lanes], room[gate * lanes :]
    alive, square = room[:lanes], room[lanes:]
    spectra_in(statics, first * 2 * frequencies, used, static, channels, frequencies, height, half, order, K, size, square)  # fmt: skip
    begin = (row_of * states * channels + first) * 2 * frequencies
    spectra_in(last, begin, used, states, channels, frequencies, height, half, order, G, size, square)
    DK[:] = 0
    for lane in range(lanes):
        alive[lane] = 1 if lane < used else 0
    mine = load_real(alive, 0)
    if used < lanes:  # planes are shared: lanes not in use must not count
        for o in range(0, states * size, wide):
            store(G, o, kept(load(G, o), mine))
    incoming, outgoing = (height, width, inputs * channels), (height, width, outputs * channels)
    past = beyond_caches(dx, inputs * channels)
    segments = (steps + segment - 1) // segment
    for n in range(segments):
        start = (segments - 1 - n) * segment
        end = min(start + segment, steps)
        now[:] = starts[(task * segments + segments - 1 - n) * states * size :][: states * size]
        for t in range(start, end):
            number, i = row_of * steps + t, t - start
            if reset.size and reset[number]:
                now[:] = 0
            S[i * states * size :][: states * size] = now
            z = Z[i * inputs * size :][: inputs * size]
            fields_in(x, first, used, inputs, channels, number * pixels * inputs, incoming, row, z, 0, size, across, work, square)  # fmt: skip
            gates_in(gates, number * gate * channels + first, used, gate, channels, A)
            for k in range(half):
                column = k * (height + 1) * wide
                for j in range(inputs):
                    forward(z, j * size + column, height, tall, tall_rotations, work)
                if t + 1 < end:
                    at = (number * half + k) * plane * height
                    advance(kind, few, K, planes, at, A, constants, z, now, Y, False, column, height, size)
        for m in range(end - start):
            t = end - 1 - m
            number, i = row_of * steps + t, t - start
            s, z = S[i * states * size :][: states * size], Z[i * inputs * size :][: inputs * size]
            if shown:
                fields_in(given, first, used, outputs, channels, number * pixels * outputs, outgoing, row, Y, 0, size, across, work, square)  # fmt: skip
            gates_in(gates, number * gate * channels + first, used, gate, channels, A)
            DA[:] = 0
            of_gates_now[:] = 0
            for k in range(half):
                column, single = k * (height + 1) * wide, k == 0 or 2 * k == width
                if shown:
                    for j in range(outputs):
                        forward(Y, j * size + column, height, tall, tall_rotations, work)
                        if used < lanes:
                            for o in range(j * size + column, j * size + column + height * wide, wide):
                                store(Y, o, kept(load(Y, o), mine))
                at = (number * half + k) * plane * height
                to = ((task * steps + t) * half + k) * plane * height
                retreat(
                    kind, few, K, planes, at, A, constants, z, s, Y, shown, G, of_planes, to, DK, DA, DZ, column, height,
                    size,
                )  # fmt: skip
                for j in range(gate * lanes):
                    of_gates_now[j] += DA[j] * (1 if single else 2) / (height * width)
                    DA[j] = 0
                for j in range(inputs):
                    backward(DZ, j * size + column, height, tall, tall_rotations, work)
            fields_out(DZ, dx, first, used, inputs, channels, past, number * pixels * inputs, incoming, row, size, across, work, square)  # fmt: skip
            for j in range(gate):
                for lane in range(used):
                    of_gates[(number * gate + j) * channels + first + lane] = of_gates_now[j * lanes + lane]
            if reset.size and reset[number]:
                G[:] = 0
    spectra_out(G, before, begin, used, states, channels, frequencies, height, half, order, size, square)
    into = (row_of * static * channels + first) * 2 * frequencies
    spectra_out(DK, of_statics, into, used, static, channels, frequencies, height, half, order, size, square)
    if past:
        drain()
    restore_denormals(control)
