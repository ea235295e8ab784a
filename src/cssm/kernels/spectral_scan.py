"""Fused spectral recurrence: frames in, frames out, the state in registers. Triton; H, W <= 64.

Coordinates: `spectral_layout`. Order of launches: `spectral_schedule`. Costs: the README of ops/spectral. One program
owns one batch row, one chunk of frames and BC channels. Per frame it reads a tile (2 ROWS * BC, 2 COLUMNS) from NHWC
memory; two matrix products with cosines and sines give its Fourier coefficients, two more the frame of the state.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _multiply(ar, ai, br, bi, corner):
    """Products of complex numbers; where corner, of two real numbers each."""
    return tl.where(corner, ar * br, ar * br - ai * bi), tl.where(corner, ai * bi, ar * bi + ai * br)


@triton.jit
@no_type_check
def _past(forget, pr, pi, qr, qi, RESET: tl.constexpr):
    """Zeros where the clip restarts at this frame, whatever the past was, NaN included."""
    if RESET:
        pr, pi = tl.where(forget, 0.0, pr), tl.where(forget, 0.0, pi)
        qr, qi = tl.where(forget, 0.0, qr), tl.where(forget, 0.0, qi)
    return pr, pi, qr, qi


@triton.jit
@no_type_check
def _to_pairs(frame, rows, columns, edge, column, PRECISION: tl.constexpr):
    """Frame (2 ROWS * BC, 2 COLUMNS) to Re P, Im P, Re Q, Im Q, each (BC * COLUMNS, ROWS)."""
    tall: tl.constexpr = rows.shape[0]
    wide: tl.constexpr = frame.shape[0] // tall * columns.shape[0]
    half = tl.dot(frame, tl.trans(columns), input_precision=PRECISION)
    half = tl.trans(tl.reshape(half, (tall, wide)))
    full = tl.dot(half, tl.trans(rows), input_precision=PRECISION)
    even, odd = tl.split(tl.reshape(full, (wide, tall // 2, 2)))
    cc, cs = _split_blocks(even)
    sc, ss = _split_blocks(odd)
    first, second = tl.where(column, sc, cs), tl.where(column, cs, sc)
    pr, pi = tl.where(edge, cc, cc - ss), tl.where(edge, -first, -(cs + sc))
    qr, qi = tl.where(edge, second, cc + ss), tl.where(edge, -ss, sc - cs)
    return pr, pi, qr, qi


@triton.jit
@no_type_check
def _to_frame(pr, pi, qr, qi, rows, columns, edge, column, PRECISION: tl.constexpr):
    """Inverse of `_to_pairs`."""
    tall: tl.constexpr = rows.shape[0]
    wide: tl.constexpr = 2 * pr.shape[0]
    cc, ss = tl.where(edge, pr, 0.5 * (pr + qr)), tl.where(edge, -qi, 0.5 * (qr - pr))
    cs = tl.where(edge, tl.where(column, qr, -pi), -0.5 * (pi + qi))
    sc = tl.where(edge, tl.where(column, -pi, qr), 0.5 * (qi - pi))
    full = tl.reshape(tl.join(_join_blocks(cc, cs), _join_blocks(sc, ss)), (wide, tall))
    half = tl.trans(tl.dot(full, rows, input_precision=PRECISION))
    half = tl.reshape(half, (tall * wide // columns.shape[0], columns.shape[0]))
    return tl.dot(half, columns, input_precision=PRECISION)


@triton.jit
@no_type_check
def _split_blocks(both):
    """Rows in blocks of 8 cosines and 8 sines, which one thread of a matrix unit holds, to cosines and sines."""
    blocks: tl.constexpr = both.shape[0] // 16
    wide: tl.constexpr = both.shape[1]
    cos, sin = tl.split(tl.permute(tl.reshape(both, (blocks, 2, 8, wide)), (0, 2, 3, 1)))
    return tl.reshape(cos, (8 * blocks, wide)), tl.reshape(sin, (8 * blocks, wide))


@triton.jit
@no_type_check
def _join_blocks(cos, sin):
    """Inverse of `_split_blocks`."""
    blocks: tl.constexpr = cos.shape[0] // 8
    wide: tl.constexpr = cos.shape[1]
    both = tl.join(tl.reshape(cos, (blocks, 8, wide)), tl.reshape(sin, (blocks, 8, wide)))
    return tl.reshape(tl.permute(both, (0, 3, 1, 2)), (16 * blocks, wide))


@triton.jit
@no_type_check
def _load_basis(basis, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The orthonormal waves as rows: (2 ROWS, 2 ROWS) of the height, (2 COLUMNS, 2 COLUMNS) of the width."""
    row = tl.arange(0, 2 * ROWS)[:, None] * (2 * ROWS) + tl.arange(0, 2 * ROWS)[None, :]
    column = tl.arange(0, 2 * COLUMNS)[:, None] * (2 * COLUMNS) + tl.arange(0, 2 * COLUMNS)[None, :]
    return tl.load(basis + row), tl.load(basis + 4 * ROWS * ROWS + column)


@triton.jit
@no_type_check
def _places(first_channel, H, W, C, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BC: tl.constexpr):
    """Offsets and mask of a tile in a frame (H, W, C), and in a packed array (C, 4, COLUMNS, ROWS)."""
    tall = tl.arange(0, 2 * ROWS * BC)[:, None]
    h, c, w = tall // BC, first_channel + tall % BC, tl.arange(0, 2 * COLUMNS)[None, :]
    pixel, inside = (h * W + w) * C + c, (h < H) & (w < W) & (c < C)
    wide = tl.arange(0, BC * COLUMNS)[:, None]
    i, j, c = tl.arange(0, ROWS)[None, :], wide % COLUMNS, first_channel + wide // COLUMNS
    entry, exists = (c * 4 * COLUMNS + j) * ROWS + i, (c < C) & (i >= 0)
    return pixel, inside, entry, exists, (i == 0) | (j == 0), (i > 0) & (j == 0), (i == 0) & (j == 0)


@triton.jit
@no_type_check
def _load_pairs(source, entry, exists, part):
    """Re P, Im P, Re Q, Im Q of a packed array whose parts lie `part` numbers apart."""
    return (
        tl.load(source + entry, mask=exists, other=0.0),
        tl.load(source + part + entry, mask=exists, other=0.0),
        tl.load(source + 2 * part + entry, mask=exists, other=0.0),
        tl.load(source + 3 * part + entry, mask=exists, other=0.0),
    )


@triton.jit
@no_type_check
def _store_pairs(target, entry, exists, part, pr, pi, qr, qi):
    tl.store(target + entry, pr, mask=exists)
    tl.store(target + part + entry, pi, mask=exists)
    tl.store(target + 2 * part + entry, qr, mask=exists)
    tl.store(target + 3 * part + entry, qi, mask=exists)


@triton.jit
@no_type_check
def spectral_scan_kernel(
    x, gain, basis, start, reset, T, LENGTH, y, ends, slopes,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BC: tl.constexpr,
    REVERSE: tl.constexpr, READ: tl.constexpr, START: tl.constexpr, RESET: tl.constexpr, WRITE: tl.constexpr,
    ENDS: tl.constexpr, SLOPES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S = K S + X_t over a chunk, y_t the frame of S; or REVERSE: s = X_t + s, y_t the frame of s, s = conj(K) s.

    x, y (B, T, H, W, C); gain (C, 4, COLUMNS, ROWS); reset (B, T); start, ends, slopes (B, chunks, and as gain).
    SLOPES carries dS/dK along: P = K P + S of the frame before. Grid: (channel blocks, chunks, B).
    """
    block, chunk, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    pixel, inside, entry, exists, edge, column, corner = _places(block * BC, H, W, C, ROWS, COLUMNS, BC)
    rows, columns = _load_basis(basis, ROWS, COLUMNS)
    part: tl.constexpr = ROWS * COLUMNS
    kpr, kpi, kqr, kqi = _load_pairs(gain, entry, exists, part)
    if REVERSE:
        kpi, kqi = tl.where(corner, kpi, -kpi), tl.where(corner, kqi, -kqi)
    own = (b * tl.num_programs(1) + chunk) * (4 * C * part)
    pr = tl.zeros((BC * COLUMNS, ROWS), tl.float32)
    pi, qr, qi = pr, pr, pr
    if START:
        pr, pi, qr, qi = _load_pairs(start + own, entry, exists, part)
    if SLOPES:
        upr, upi, uqr, uqi = pr * 0, pr * 0, pr * 0, pr * 0
    first = chunk * LENGTH
    length = tl.minimum(LENGTH, T - first)
    for n in range(length):
        t = first + (length - 1 - n if REVERSE else n)
        frame = (b * T + t) * (H * W * C)
        forget = False
        if RESET:
            forget = tl.load(reset + b * T + t) != 0
        if SLOPES:
            ar, ai = _multiply(kpr, kpi, upr, upi, corner)
            br, bi = _multiply(kqr, kqi, uqr, uqi, corner)
            upr, upi, uqr, uqi = _past(forget, ar + pr, ai + pi, br + qr, bi + qi, RESET)
        if not REVERSE:
            pr, pi = _multiply(kpr, kpi, pr, pi, corner)
            qr, qi = _multiply(kqr, kqi, qr, qi, corner)
            pr, pi, qr, qi = _past(forget, pr, pi, qr, qi, RESET)
        if READ:
            tile = tl.load(x + frame + pixel, mask=inside, other=0.0).to(tl.float32)
            ar, ai, br, bi = _to_pairs(tile, rows, columns, edge, column, PRECISION)
            pr, pi, qr, qi = pr + ar, pi + ai, qr + br, qi + bi
        if WRITE:
            tile = _to_frame(pr, pi, qr, qi, rows, columns, edge, column, PRECISION)
            tl.store(y + frame + pixel, tile.to(y.dtype.element_ty), mask=inside)
        if REVERSE:
            pr, pi = _multiply(kpr, kpi, pr, pi, corner)
            qr, qi = _multiply(kqr, kqi, qr, qi, corner)
            pr, pi, qr, qi = _past(forget, pr, pi, qr, qi, RESET)
    if ENDS:
        _store_pairs(ends + own, entry, exists, part, pr, pi, qr, qi)
    if SLOPES:
        _store_pairs(slopes + own, entry, exists, part, upr, upi, uqr, uqi)


@triton.jit
@no_type_check
def spectral_join_kernel(
    gain, ends, slopes, start, reset, T, LENGTH, CHUNKS, starts, final, slope,
    C: tl.constexpr, PLANE: tl.constexpr, BLOCK: tl.constexpr,
    REVERSE: tl.constexpr, ENDS: tl.constexpr, RESET: tl.constexpr, SLOPES: tl.constexpr,
):  # fmt: skip
    """State before every chunk from the chunks' own ends: S = K^length S + end, chunk by chunk; dS/dK likewise.

    gain (C, 4, PLANE); ends, slopes, starts (B, CHUNKS, C, 4, PLANE); start, final, slope (B, C, 4, PLANE), PLANE =
    COLUMNS * ROWS. Without ENDS the chunks add nothing. Grid: (blocks of C * PLANE, 2 for P and Q, B).
    """
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b, exists, corner = tl.program_id(2).to(tl.int64), place < C * PLANE, place % PLANE == 0
    entry = (place // PLANE * 4 + tl.program_id(1) * 2) * PLANE + place % PLANE
    size: tl.constexpr = 4 * C * PLANE
    kr = tl.load(gain + entry, mask=exists, other=0.0)
    ki = tl.load(gain + PLANE + entry, mask=exists, other=0.0)
    if REVERSE:
        ki = tl.where(corner, ki, -ki)
    r = tl.load(start + b * size + entry, mask=exists, other=0.0)
    i = tl.load(start + b * size + PLANE + entry, mask=exists, other=0.0)
    ur, ui = r * 0, i * 0
    one_i = tl.where(corner, 1.0, 0.0)
    power_r, power_i, below_r, below_i = r * 0 + 1, one_i, r * 0, i * 0
    powered = 0
    for n in range(CHUNKS):
        chunk = CHUNKS - 1 - n if REVERSE else n
        length = tl.minimum(LENGTH, T - chunk * LENGTH)
        if length < powered:  # the clip's last, shorter chunk
            power_r, power_i, powered = r * 0 + 1, one_i, 0
        for _ in range(length - powered):
            below_r, below_i = power_r, power_i
            power_r, power_i = _multiply(kr, ki, power_r, power_i, corner)
        powered = length
        own = (b * CHUNKS + chunk) * size + entry
        tl.store(starts + own, r, mask=exists)
        tl.store(starts + own + PLANE, i, mask=exists)
        forget = False
        if RESET:
            for t in range(length):
                forget = forget | (tl.load(reset + b * T + chunk * LENGTH + t) != 0)
        if SLOPES:
            ur, ui = _multiply(power_r, power_i, ur, ui, corner)
            vr, vi = _multiply(below_r, below_i, r, i, corner)
            ur, ui = tl.where(forget, 0.0, ur + length * vr), tl.where(forget, 0.0, ui + length * vi)
            ur += tl.load(slopes + own, mask=exists, other=0.0)
            ui += tl.load(slopes + own + PLANE, mask=exists, other=0.0)
        r, i = _multiply(power_r, power_i, r, i, corner)
        r, i = tl.where(forget, 0.0, r), tl.where(forget, 0.0, i)
        if ENDS:
            r += tl.load(ends + own, mask=exists, other=0.0)
            i += tl.load(ends + own + PLANE, mask=exists, other=0.0)
    own = b * size + entry
    tl.store(final + own, r, mask=exists)
    tl.store(final + own + PLANE, i, mask=exists)
    if SLOPES:
        tl.store(slope + own, ur, mask=exists)
        tl.store(slope + own + PLANE, ui, mask=exists)


@triton.jit
@no_type_check
def spectral_gain_gradient_kernel(
    x, g, gain, basis, starts, after, reset, T, LENGTH, out,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BC: tl.constexpr,
    RESET: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A chunk's share of dK = sum_t s_t conj(S_{t-1}), walking forward: sum_t G_t conj(P_t) + after conj(P_end).

    P = K P + S of the frame before, from P = 0 at the chunk's start; `after` is the cotangent of the chunk's end.
    x, g (B, T, H, W, C); starts, after, out (B, chunks, C, 4, COLUMNS, ROWS). Grid: (channel blocks, chunks, B).
    """
    block, chunk, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    pixel, inside, entry, exists, edge, column, corner = _places(block * BC, H, W, C, ROWS, COLUMNS, BC)
    rows, columns = _load_basis(basis, ROWS, COLUMNS)
    part: tl.constexpr = ROWS * COLUMNS
    own = (b * tl.num_programs(1) + chunk) * (4 * C * part)
    pr, pi, qr, qi = _load_pairs(starts + own, entry, exists, part)
    upr = tl.zeros((BC * COLUMNS, ROWS), tl.float32)
    upi, uqr, uqi, dpr, dpi, dqr, dqi = upr, upr, upr, upr, upr, upr, upr
    first = chunk * LENGTH
    for t in range(first, tl.minimum(first + LENGTH, T)):
        frame = (b * T + t) * (H * W * C)
        forget = False
        if RESET:
            forget = tl.load(reset + b * T + t) != 0
        kpr, kpi, kqr, kqi = _load_pairs(gain, entry, exists, part)
        ar, ai = _multiply(kpr, kpi, upr, upi, corner)
        br, bi = _multiply(kqr, kqi, uqr, uqi, corner)
        upr, upi, uqr, uqi = _past(forget, ar + pr, ai + pi, br + qr, bi + qi, RESET)
        pr, pi = _multiply(kpr, kpi, pr, pi, corner)
        qr, qi = _multiply(kqr, kqi, qr, qi, corner)
        pr, pi, qr, qi = _past(forget, pr, pi, qr, qi, RESET)
        tile = tl.load(x + frame + pixel, mask=inside, other=0.0).to(tl.float32)
        ar, ai, br, bi = _to_pairs(tile, rows, columns, edge, column, PRECISION)
        pr, pi, qr, qi = pr + ar, pi + ai, qr + br, qi + bi
        tile = tl.load(g + frame + pixel, mask=inside, other=0.0).to(tl.float32)
        ar, ai, br, bi = _to_pairs(tile, rows, columns, edge, column, PRECISION)
        ar, ai = _multiply(upr, tl.where(corner, upi, -upi), ar, ai, corner)
        br, bi = _multiply(uqr, tl.where(corner, uqi, -uqi), br, bi, corner)
        dpr, dpi, dqr, dqi = dpr + ar, dpi + ai, dqr + br, dqi + bi
    ar, ai, br, bi = _load_pairs(after + own, entry, exists, part)
    ar, ai = _multiply(upr, tl.where(corner, upi, -upi), ar, ai, corner)
    br, bi = _multiply(uqr, tl.where(corner, uqi, -uqi), br, bi, corner)
    _store_pairs(out + own, entry, exists, part, dpr + ar, dpi + ai, dqr + br, dqi + bi)
