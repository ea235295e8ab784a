"""The spectral recurrence on few channels R lifted to many, compiled for CPUs: S_t = K S_{t-1} + sum_r W_r U_{t,r}.

U are the spectra of the R channels. A task owns one batch row and 64 bytes of channels ("lanes"); a frequency is taken
through all frames while its state is in registers, U the same number for all lanes. Source: docs/math.md section 2.
"""

from typing import no_type_check

import numpy as np

from cssm.shared.compiled import inner
from cssm.shared.spectral import MEAN, SLOPES

from .fft_cpu import inlined
from .lanes import (
    BYTES,
    flush_denormals,
    join,
    lane_count,
    load,
    load_real,
    number,
    prefetch,
    restore_denormals,
    store,
    store_real,
    zero,
)
from .spectral_cpu import aligned, turned_in, turned_out


def tasks(batch: int, channels: int, double: bool) -> int:
    """How many tasks there are.

    >>> tasks(2, 24, False), tasks(1, 32, True)
    (4, 4)
    """
    return batch * -(-channels // (BYTES // (8 if double else 4)))


@inner
@no_type_check
def owned(like, task, channels, frequencies):
    """The batch row of a task, its first channel, the channels in use, and where each lane's spectrum begins: lanes not
    in use read the first."""
    lanes = lane_count(like)
    blocks = (channels + lanes - 1) // lanes
    row, first = task // blocks, task % blocks * lanes
    used = min(lanes, channels - first)
    begins = np.empty(lanes, np.int64)
    for lane in range(lanes):
        begins[lane] = (first + (lane if lane < used else 0)) * 2 * frequencies
    return row, first, used, begins


@inner
@no_type_check
def ask_for(inputs, first, frames, apart):
    """Ask for a line of every channel and frame while the lines before it are worked on: more streams than the
    processor follows by itself."""
    for n in range(frames):
        prefetch(inputs, first + n * apart)


@inlined
@no_type_check
def written(inputs, at, skip, W, few, apart):
    """What a frame writes at two frequencies, sum_r W_r U_r: it does not wait for the state, so that frames overlap."""
    lanes = lane_count(W)
    w = load_real(W, 0)
    re, im, re2, im2 = (
        w * number(inputs, at), w * number(inputs, at + 1),
        w * number(inputs, at + skip), w * number(inputs, at + skip + 1),
    )  # fmt: skip
    for r in range(1, few):
        w, o = load_real(W, r * lanes), at + r * apart
        re, im = re + w * number(inputs, o), im + w * number(inputs, o + 1)
        re2, im2 = re2 + w * number(inputs, o + skip), im2 + w * number(inputs, o + skip + 1)
    return join(re, im), join(re2, im2)


@inner
@no_type_check
def lifted(
    task, inputs, lift, spectrum, state, final, total, slope, slope_total,
    batch, steps, few, channels, frequencies, kind,
):  # fmt: skip
    """One task of the recurrence over all frames, from `state` on.

    inputs (B T R F 2,), lift (R C,), spectrum (C F 2,); state, final, total, slope, slope_total (B C F 2,). kind: with
    MEAN also the sum of the states, with SLOPES P = dS/dK, and its sum with both.
    """
    control, lanes = flush_denormals(), lane_count(inputs)
    wide, block = 2 * lanes, lanes // 2
    row, first, used, begins = owned(inputs, task, channels, frequencies)
    here = begins + row * channels * 2 * frequencies
    mean, slopes = (kind & MEAN) > 0, (kind & SLOPES) > 0
    room = aligned(inputs, 5 * lanes * lanes + few * lanes)
    K, S, M = room[: lanes * lanes], room[lanes * lanes :][: lanes * lanes], room[2 * lanes * lanes :][: lanes * lanes]
    P, Q = room[3 * lanes * lanes :][: lanes * lanes], room[4 * lanes * lanes :][: lanes * lanes]
    W = room[5 * lanes * lanes :]
    for r in range(few):
        for lane in range(lanes):
            W[r * lanes + lane] = lift[r * channels + first + (lane if lane < used else 0)]
    for start in range(0, frequencies, block):
        many = min(block, frequencies - start)
        turned_in(spectrum, begins, start, many, K)
        turned_in(state, here, start, many, S)
        ask_for(inputs, 2 * (row * steps * few * frequencies + start + block), steps * few, 2 * frequencies)
        for i in range(0, many, 2):  # two frequencies at a time; the last one of an odd number twice
            j, skip = (i + 1, 2) if i + 1 < many else (i, 0)
            gain, s, gain2, s2 = load(K, i * wide), load(S, i * wide), load(K, j * wide), load(S, j * wide)
            m, p, q, m2, p2, q2 = zero(S), zero(S), zero(S), zero(S), zero(S), zero(S)
            at, stride = 2 * (row * steps * few * frequencies + start + i), 2 * few * frequencies
            if slopes:
                for t in range(steps):
                    x, x2 = written(inputs, at + t * stride, skip, W, few, 2 * frequencies)
                    p, p2 = gain * p + s, gain2 * p2 + s2
                    q, q2 = q + p, q2 + p2
                    s, s2 = gain * s + x, gain2 * s2 + x2
                    m, m2 = m + s, m2 + s2
            else:
                for t in range(steps):
                    x, x2 = written(inputs, at + t * stride, skip, W, few, 2 * frequencies)
                    s, s2 = gain * s + x, gain2 * s2 + x2
                    m, m2 = m + s, m2 + s2
            store(S, i * wide, s)
            store(M, i * wide, m)
            store(P, i * wide, p)
            store(Q, i * wide, q)
            store(S, j * wide, s2)
            store(M, j * wide, m2)
            store(P, j * wide, p2)
            store(Q, j * wide, q2)
        turned_out(S, final, here, used, start, many)
        if mean:
            turned_out(M, total, here, used, start, many)
        if slopes:
            turned_out(P, slope, here, used, start, many)
            if mean:
                turned_out(Q, slope_total, here, used, start, many)
    restore_denormals(control)


@inner
@no_type_check
def lifted_adjoint(
    task, inputs, spectrum, last, given, before, products, batch, steps, few, channels, frequencies, kind
):
    """One task of s_t = K s_{t+1} (+ `given`) from `last` on: before = K s_0 (B C F 2,), and products (B R C,), the sum
    over t and frequencies of Re(s_t U_t). kind: MEAN where there is `given`."""
    control, lanes = flush_denormals(), lane_count(inputs)
    wide, block = 2 * lanes, lanes // 2
    row, first, used, begins = owned(inputs, task, channels, frequencies)
    here = begins + row * channels * 2 * frequencies
    mean = (kind & MEAN) > 0
    room = aligned(inputs, 3 * lanes * lanes + few * lanes)
    K, S, G = room[: lanes * lanes], room[lanes * lanes :][: lanes * lanes], room[2 * lanes * lanes :][: lanes * lanes]
    D = room[3 * lanes * lanes :]
    for i in range(few * lanes):
        D[i] = 0
    for start in range(0, frequencies, block):
        many = min(block, frequencies - start)
        turned_in(spectrum, begins, start, many, K)
        turned_in(last, here, start, many, S)
        ask_for(inputs, 2 * (row * steps * few * frequencies + start + block), steps * few, 2 * frequencies)
        if mean:
            turned_in(given, here, start, many, G)
        for i in range(0, many, 2):
            j, skip = (i + 1, 2) if i + 1 < many else (i, 0)
            gain, s, gain2, s2 = load(K, i * wide), load(S, i * wide), load(K, j * wide), load(S, j * wide)
            at, both = 2 * ((row + 1) * steps * few * frequencies + start + i), 0.5 * skip
            for _ in range(steps):
                if mean:
                    s, s2 = s + load(G, i * wide), s2 + load(G, j * wide)
                for r in range(few - 1, -1, -1):
                    at -= 2 * frequencies
                    one = s.re * number(inputs, at) - s.im * number(inputs, at + 1)
                    two = s2.re * number(inputs, at + skip) - s2.im * number(inputs, at + skip + 1)
                    store_real(D, r * lanes, load_real(D, r * lanes) + (one + two * both))
                s, s2 = gain * s, gain2 * s2
            store(S, i * wide, s)
            store(S, j * wide, s2)
        turned_out(S, before, here, used, start, many)
    for r in range(few):
        for lane in range(used):
            products[(row * few + r) * channels + first + lane] = D[r * lanes + lane]
    restore_denormals(control)
