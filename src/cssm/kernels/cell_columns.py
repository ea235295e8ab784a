"""The spectral cells, one column of frequencies at a time: a frame forward (`advance`) and backward (`retreat`).

Lanes are channels (heads, of the delta rule). K: static spectra, Z: what comes in, S: states, Y: what goes out; field j
begins at j * size. P: gates per frequency of this column, one plane of `height` after another from `at` on, in the
order of Z's rows; A: gates per channel, in lanes. g is the gradient dL/dRe + i dL/dIm of what it stands for, over w =
m / (H W) (see `cssm.shared.spectral.column_weights`), so that fields need no weights. Equations: ops/cell/README.md.
"""

from typing import no_type_check

from cssm.shared.cell import CONVOLUTION, DELTA, GATED, OPPONENT, SYSTEM
from cssm.shared.compiled import inner

from .fft_cpu import inlined
from .lanes import (
    conj,
    inverse,
    join,
    lane_count,
    load,
    load_real,
    number,
    root,
    store,
    store_real,
    total,
    where_above_one,
    zero,
)


@inlined
@no_type_check
def dot(a, b):
    """Re(conj(a) b), in every lane."""
    return a.re * b.re + a.im * b.im


@inlined
@no_type_check
def add_to(array, o, value):
    store(array, o, load(array, o) + value)


@inner
@no_type_check
def advance(kind, few, K, P, at, A, constants, Z, S, Y, shown, column, height, size):
    """S becomes that after the frame; Y what is read from it, if shown."""
    if kind == GATED:
        _gated(K, P, at, Z, S, Y, shown, column, height)
    elif kind == OPPONENT:
        _opponent(K, P, at, A, constants, Z, S, Y, shown, column, height, size)
    elif kind == DELTA:
        _delta(few, K, A, constants, Z, S, Y, shown, column, height, size)
    elif kind == CONVOLUTION and shown:
        _convolution(K, Z, Y, column, height)
    elif kind == SYSTEM:
        _system(K, Z, S, Y, shown, column, height, size)


@inner
@no_type_check
def retreat(kind, few, K, P, at, A, constants, Z, S, Y, shown, G, slopes, to, DK, DA, DZ, column, height, size):
    """S: before the frame. G, the gradient of the states after it, becomes that before it; Y: that of what was read.

    DZ becomes the gradient of Z, slopes (from `to` on) that of P, summed over lanes; DK and DA are added to.
    """
    if kind == GATED:
        _gated_back(K, P, at, Z, S, Y, shown, G, slopes, to, DK, DZ, column, height)
    elif kind == OPPONENT:
        _opponent_back(K, P, at, A, constants, Z, S, Y, shown, G, slopes, to, DK, DA, DZ, column, height, size)
    elif kind == DELTA:
        _delta_back(few, K, A, constants, Z, S, Y, shown, G, DK, DA, DZ, column, height, size)
    elif kind == CONVOLUTION:
        _convolution_back(K, Z, Y, shown, DK, DZ, column, height)
    elif kind == SYSTEM:
        _system_back(K, Z, S, Y, shown, G, DK, DZ, column, height, size)


@inner
@no_type_check
def _gated(K, P, at, Z, S, Y, shown, column, height):
    wide = 2 * lane_count(S)
    for i in range(height):
        o = column + i * wide
        decay, write = number(P, at + i), number(P, at + height + i)
        s = load(K, o) * load(S, o) * decay + load(Z, o) * write
        store(S, o, s)
        if shown:
            store(Y, o, s * number(P, at + 2 * height + i))


@inner
@no_type_check
def _gated_back(K, P, at, Z, S, Y, shown, G, slopes, to, DK, DZ, column, height):
    wide = 2 * lane_count(S)
    for i in range(height):
        o = column + i * wide
        decay, write, read = number(P, at + i), number(P, at + height + i), number(P, at + 2 * height + i)
        k, s, z, g = load(K, o), load(S, o), load(Z, o), load(G, o)
        kept = k * s
        if shown:
            out = load(Y, o)
            slopes[to + 2 * height + i] = total(dot(kept * decay + z * write, out))
            g = g + out * read
        else:
            slopes[to + 2 * height + i] = 0
        slopes[to + i] = total(dot(kept, g))
        slopes[to + height + i] = total(dot(z, g))
        store(DZ, o, g * write)
        g = g * decay
        add_to(DK, o, conj(s) * g)
        store(G, o, conj(k) * g)


@inner
@no_type_check
def _opponent(K, P, at, A, constants, Z, S, Y, shown, column, height, size):
    wide, d, over = 2 * lane_count(S), load_real(A, 0), number(constants, 0)
    for i in range(height):
        o = column + i * wide
        excite, inhibit = d * number(P, at + i), d * number(P, at + height + i)
        into_x, into_y = number(P, at + 2 * height + i), number(P, at + 3 * height + i)
        x, y, moduli = load(S, o), load(S, size + o), load(K, 2 * size + o)
        first, second = (excite + moduli.re * into_x) * over, (inhibit + moduli.im * into_y) * over
        first, second = _least(first), _least(second)
        u = (x * excite - load(K, o) * y * into_x) * first
        v = (load(K, size + o) * x * into_y + y * inhibit) * second
        u = u + load(Z, o) * number(P, at + 4 * height + i)
        store(S, o, u)
        store(S, size + o, v)
        if shown:
            store(Y, o, u)
            store(Y, size + o, v)


@inlined
@no_type_check
def _least(sum_of_row):
    """1 / max(1, sum)."""
    scale = inverse(sum_of_row)
    return where_above_one(sum_of_row, scale, sum_of_row * 0.0 + 1.0)


@inner
@no_type_check
def _opponent_back(K, P, at, A, constants, Z, S, Y, shown, G, slopes, to, DK, DA, DZ, column, height, size):
    wide, d, over = 2 * lane_count(S), load_real(A, 0), number(constants, 0)
    slope_of_d = d * 0.0
    for i in range(height):
        o = column + i * wide
        a, e = number(P, at + i), number(P, at + height + i)
        into_x, into_y = number(P, at + 2 * height + i), number(P, at + 3 * height + i)
        x, y, moduli = load(S, o), load(S, size + o), load(K, 2 * size + o)
        excite, inhibit = d * a, d * e
        first, second = (excite + moduli.re * into_x) * over, (inhibit + moduli.im * into_y) * over
        g, h = load(G, o), load(G, size + o)
        if shown:
            g, h = g + load(Y, o), h + load(Y, size + o)
        slopes[to + 4 * height + i] = total(dot(load(Z, o), g))
        store(DZ, o, g * number(P, at + 4 * height + i))
        from_y, from_x = load(K, o) * y, load(K, size + o) * x
        u, v = x * excite - from_y * into_x, from_x * into_y + y * inhibit
        scale, other = _least(first), _least(second)
        # the slope of a row's sum, where it is scaled: -1 / sum^2
        of_sum = where_above_one(first, dot(u, g) * scale * scale * (-1.0 * over), d * 0.0)
        of_other = where_above_one(second, dot(v, h) * other * other * (-1.0 * over), d * 0.0)
        g, h = g * scale, h * other
        of_excite, of_inhibit = dot(x, g) + of_sum, dot(y, h) + of_other
        slopes[to + i] = total(of_excite * d)
        slopes[to + height + i] = total(of_inhibit * d)
        slopes[to + 2 * height + i] = total(of_sum * moduli.re - dot(from_y, g))
        slopes[to + 3 * height + i] = total(of_other * moduli.im + dot(from_x, h))
        slope_of_d = slope_of_d + of_excite * a + of_inhibit * e
        add_to(DK, o, conj(y) * g * (-1.0 * into_x))
        add_to(DK, size + o, conj(x) * h * into_y)
        add_to(DK, 2 * size + o, join(of_sum * into_x, of_other * into_y))
        store(G, o, g * excite + conj(load(K, size + o)) * h * into_y)
        store(G, size + o, h * inhibit - conj(load(K, o)) * g * into_x)
    store_real(DA, 0, load_real(DA, 0) + slope_of_d)


@inner
@no_type_check
def _delta(few, K, A, constants, Z, S, Y, shown, column, height, size):
    wide, lanes = 2 * lane_count(S), lane_count(S)
    alpha, beta = load_real(A, 0), load_real(A, lanes)
    for i in range(height):
        o = column + i * wide
        c, unit = load(K, o) * alpha, _unit(few, Z, constants, o, size)
        for row in range(few):
            recall = zero(S)
            for j in range(few):
                recall = recall + load(S, (row * few + j) * size + o) * load(Z, (few + j) * size + o)
            write = (load(Z, (2 * few + row) * size + o) - c * (recall * unit)) * beta * unit
            out = zero(S)
            for j in range(few):
                s = c * load(S, (row * few + j) * size + o) + write * conj(load(Z, (few + j) * size + o))
                store(S, (row * few + j) * size + o, s)
                out = out + s * load(Z, j * size + o)
            if shown:
                store(Y, row * size + o, out * number(constants, 1))


@inlined
@no_type_check
def _unit(few, Z, constants, o, size):
    """1 / |k|."""
    square = load(Z, o).re * 0.0
    for j in range(few):
        k = load(Z, (few + j) * size + o)
        square = square + dot(k, k)
    return inverse(root(square + number(constants, 0)))


@inner
@no_type_check
def _delta_back(few, K, A, constants, Z, S, Y, shown, G, DK, DA, DZ, column, height, size):
    wide, lanes = 2 * lane_count(S), lane_count(S)
    alpha, beta, shrink = load_real(A, 0), load_real(A, lanes), number(constants, 1)
    of_alpha, of_beta = alpha * 0.0, alpha * 0.0
    for i in range(height):
        o = column + i * wide
        gain = load(K, o)
        c, unit, of_c = gain * alpha, _unit(few, Z, constants, o, size), zero(S)
        for j in range(2 * few):  # of q and of k / |k|
            store(DZ, j * size + o, zero(S))
        for row in range(few):
            recall = zero(S)
            for j in range(few):
                recall = recall + load(S, (row * few + j) * size + o) * load(Z, (few + j) * size + o)
            recall = recall * unit
            error = load(Z, (2 * few + row) * size + o) - c * recall
            write, of_write = error * beta, zero(S)
            for j in range(few):
                at, k = (row * few + j) * size + o, load(Z, (few + j) * size + o) * unit
                g, s = load(G, at), load(S, at)
                if shown:
                    out = load(Y, row * size + o) * shrink
                    g = g + out * conj(load(Z, j * size + o))
                    add_to(DZ, j * size + o, conj(c * s + write * conj(k)) * out)
                    store(G, at, g)
                of_write = of_write + g * k
                add_to(DZ, (few + j) * size + o, conj(g) * write)
                of_c = of_c + conj(s) * g
            of_beta = of_beta + dot(error, of_write)
            of_error = of_write * beta
            store(DZ, (2 * few + row) * size + o, of_error)
            of_c = of_c - conj(recall) * of_error
            of_recall = conj(c) * of_error * -1.0
            for j in range(few):
                at, k = (row * few + j) * size + o, load(Z, (few + j) * size + o) * unit
                add_to(DZ, (few + j) * size + o, conj(load(S, at)) * of_recall)
                store(G, at, conj(c) * load(G, at) + of_recall * conj(k))
        of_alpha = of_alpha + dot(gain, of_c)
        add_to(DK, o, of_c * alpha)
        along = alpha * 0.0
        for j in range(few):
            along = along + dot(load(Z, (few + j) * size + o) * unit, load(DZ, (few + j) * size + o))
        for j in range(few):
            at = (few + j) * size + o
            store(DZ, at, (load(DZ, at) - load(Z, at) * unit * along) * unit)
    store_real(DA, 0, load_real(DA, 0) + of_alpha)
    store_real(DA, lanes, load_real(DA, lanes) + of_beta)


@inner
@no_type_check
def _convolution(K, Z, Y, column, height):
    wide = 2 * lane_count(Y)
    for o in range(column, column + height * wide, wide):
        store(Y, o, load(K, o) * load(Z, o))


@inner
@no_type_check
def _convolution_back(K, Z, Y, shown, DK, DZ, column, height):
    wide = 2 * lane_count(DZ)
    for o in range(column, column + height * wide, wide):
        g = load(Y, o) if shown else zero(DZ)
        add_to(DK, o, conj(load(Z, o)) * g)
        store(DZ, o, conj(load(K, o)) * g)


@inner
@no_type_check
def _system(K, Z, S, Y, shown, column, height, size):
    wide = 2 * lane_count(S)
    for o in range(column, column + height * wide, wide):
        s = load(K, o) * load(S, o) + load(K, size + o) * load(Z, o)
        store(S, o, s)
        if shown:
            store(Y, o, s)


@inner
@no_type_check
def _system_back(K, Z, S, Y, shown, G, DK, DZ, column, height, size):
    wide = 2 * lane_count(S)
    for o in range(column, column + height * wide, wide):
        g = load(G, o)
        if shown:
            g = g + load(Y, o)
        add_to(DK, o, conj(load(S, o)) * g)
        add_to(DK, size + o, conj(load(Z, o)) * g)
        store(DZ, o, conj(load(K, size + o)) * g)
        store(G, o, conj(load(K, o)) * g)
