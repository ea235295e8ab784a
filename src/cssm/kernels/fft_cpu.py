"""Complex transforms in place, of the channels in `lanes` side by side: mixed radix 2, 3, 4, 5, 7, 8 and any odd prime.

`forward` leaves frequencies in the order of the digits reversed, `backward` takes them in that order and gives n times
the inverse: no pass reorders anything. z holds n numbers from offset `base` on, each 2 lanes long; stages, rotations
and orders are those of `cssm.shared.radix_plan`. Work per number: about 5 log2 n operations; an odd prime p > 7 costs
2 p of them. Source: Cooley & Tukey 1965, Gentleman & Sande 1966.
"""

from typing import no_type_check

import numpy as np

from cssm.shared.compiled import compiled

from .lanes import lane_count, load, number, store, swap, times, times_minus_i, zero

SINE3, ROOT_HALF = np.sqrt(3) / 2, np.sqrt(0.5)
COSINE5, SINE5 = tuple(np.cos(2 * np.pi * np.arange(1, 3) / 5)), tuple(np.sin(2 * np.pi * np.arange(1, 3) / 5))
COSINE7, SINE7 = tuple(np.cos(2 * np.pi * np.arange(1, 4) / 7)), tuple(np.sin(2 * np.pi * np.arange(1, 4) / 7))

inlined = compiled(inline="always")


@inlined
@no_type_check
def dft3(a, b, c):
    """The transform of three numbers; likewise dft4, dft5, dft7, dft8."""
    plus, minus = b + c, times_minus_i(b - c) * SINE3
    middle = a - plus * 0.5
    return a + plus, middle + minus, middle - minus


@inlined
@no_type_check
def dft4(a, b, c, d):
    even, odd = a + c, b + d
    left, right = a - c, times_minus_i(b - d)
    return even + odd, left + right, even - odd, left - right


@inlined
@no_type_check
def dft5(a, b, c, d, e):
    outer, inner = b + e, c + d
    across, within = b - e, c - d
    first, second = a + (outer * COSINE5[0] + inner * COSINE5[1]), a + (outer * COSINE5[1] + inner * COSINE5[0])
    up = times_minus_i(across * SINE5[0] + within * SINE5[1])
    down = times_minus_i(across * SINE5[1] - within * SINE5[0])
    return a + (outer + inner), first + up, second + down, second - down, first - up


@inlined
@no_type_check
def dft7(a, b, c, d, e, f, g):
    p, q, r = b + g, c + f, d + e
    u, v, w = b - g, c - f, d - e
    x = a + (p * COSINE7[0] + q * COSINE7[1] + r * COSINE7[2])
    y = a + (p * COSINE7[1] + q * COSINE7[2] + r * COSINE7[0])
    z = a + (p * COSINE7[2] + q * COSINE7[0] + r * COSINE7[1])
    i = times_minus_i(u * SINE7[0] + v * SINE7[1] + w * SINE7[2])
    j = times_minus_i(u * SINE7[1] - v * SINE7[2] - w * SINE7[0])
    k = times_minus_i(u * SINE7[2] - v * SINE7[0] + w * SINE7[1])
    return a + (p + q + r), x + i, y + j, z + k, z - k, y - j, x - i


@inlined
@no_type_check
def dft8(a, b, c, d, e, f, g, h):
    p, q, r, s = dft4(a, c, e, g)
    t, u, v, w = dft4(b, d, f, h)
    u, v, w = (u + times_minus_i(u)) * ROOT_HALF, times_minus_i(v), (times_minus_i(w) - w) * ROOT_HALF
    return p + t, q + u, r + v, s + w, p - t, q - u, r - v, s - w


@compiled
@no_type_check
def forward(z, base, n, stages, rotations, work):
    """The transform of the n numbers at `base`, decimated in frequency: in place, frequencies in `Plan.order`."""
    wide = 2 * lane_count(z)
    size, at = n, 0
    for stage in range(stages.shape[0]):
        radix = stages[stage, 0]
        m = size // radix
        d = m * wide
        for start in range(0, n, size):
            for j in range(m):
                o, k = base + (start + j) * wide, at + radix * j
                if radix == 2:
                    a, b = load(z, o), load(z, o + d)
                    store(z, o, a + b)
                    store(z, o + d, times(a - b, number(rotations, k + 1)))
                elif radix == 3:
                    a, b, c = dft3(load(z, o), load(z, o + d), load(z, o + 2 * d))
                    store(z, o, a)
                    store(z, o + d, times(b, number(rotations, k + 1)))
                    store(z, o + 2 * d, times(c, number(rotations, k + 2)))
                elif radix == 4:
                    a, b, c, e = dft4(load(z, o), load(z, o + d), load(z, o + 2 * d), load(z, o + 3 * d))
                    store(z, o, a)
                    store(z, o + d, times(b, number(rotations, k + 1)))
                    store(z, o + 2 * d, times(c, number(rotations, k + 2)))
                    store(z, o + 3 * d, times(e, number(rotations, k + 3)))
                elif radix == 5:
                    a, b, c, e, f = dft5(
                        load(z, o), load(z, o + d), load(z, o + 2 * d), load(z, o + 3 * d), load(z, o + 4 * d)
                    )
                    store(z, o, a)
                    store(z, o + d, times(b, number(rotations, k + 1)))
                    store(z, o + 2 * d, times(c, number(rotations, k + 2)))
                    store(z, o + 3 * d, times(e, number(rotations, k + 3)))
                    store(z, o + 4 * d, times(f, number(rotations, k + 4)))
                elif radix == 7:
                    a, b, c, e, f, g, p = dft7(
                        load(z, o), load(z, o + d), load(z, o + 2 * d), load(z, o + 3 * d),
                        load(z, o + 4 * d), load(z, o + 5 * d), load(z, o + 6 * d),
                    )  # fmt: skip
                    store(z, o, a)
                    store(z, o + d, times(b, number(rotations, k + 1)))
                    store(z, o + 2 * d, times(c, number(rotations, k + 2)))
                    store(z, o + 3 * d, times(e, number(rotations, k + 3)))
                    store(z, o + 4 * d, times(f, number(rotations, k + 4)))
                    store(z, o + 5 * d, times(g, number(rotations, k + 5)))
                    store(z, o + 6 * d, times(p, number(rotations, k + 6)))
                elif radix == 8:
                    a, b, c, e, f, g, p, q = dft8(
                        load(z, o), load(z, o + d), load(z, o + 2 * d), load(z, o + 3 * d),
                        load(z, o + 4 * d), load(z, o + 5 * d), load(z, o + 6 * d), load(z, o + 7 * d),
                    )  # fmt: skip
                    store(z, o, a)
                    store(z, o + d, times(b, number(rotations, k + 1)))
                    store(z, o + 2 * d, times(c, number(rotations, k + 2)))
                    store(z, o + 3 * d, times(e, number(rotations, k + 3)))
                    store(z, o + 4 * d, times(f, number(rotations, k + 4)))
                    store(z, o + 5 * d, times(g, number(rotations, k + 5)))
                    store(z, o + 6 * d, times(p, number(rotations, k + 6)))
                    store(z, o + 7 * d, times(q, number(rotations, k + 7)))
                else:
                    _prime(z, o, d, radix, rotations, stages[stage, 1], work)
                    for q in range(1, radix):
                        store(z, o + q * d, times(load(z, o + q * d), number(rotations, k + q)))
        at += radix * m
        size = m


@compiled
@no_type_check
def backward(z, base, n, stages, rotations, work):
    """n times the inverse of `forward`, decimated in time: the same steps in the other order, between two swaps."""
    wide = 2 * lane_count(z)
    at, left = 0, n  # to the end of the rotations
    for stage in range(stages.shape[0]):
        at += left
        left //= stages[stage, 0]
    size = 1
    for stage in range(stages.shape[0] - 1, -1, -1):
        radix = stages[stage, 0]
        m, size = size, size * radix
        at -= size
        d = m * wide
        for start in range(0, n, size):
            for j in range(m):
                o, k = base + (start + j) * wide, at + radix * j
                if radix == 2:
                    a, b = swap(load(z, o)), times(swap(load(z, o + d)), number(rotations, k + 1))
                    store(z, o, swap(a + b))
                    store(z, o + d, swap(a - b))
                elif radix == 3:
                    a, b, c = dft3(
                        swap(load(z, o)), times(swap(load(z, o + d)), number(rotations, k + 1)),
                        times(swap(load(z, o + 2 * d)), number(rotations, k + 2)),
                    )  # fmt: skip
                    store(z, o, swap(a))
                    store(z, o + d, swap(b))
                    store(z, o + 2 * d, swap(c))
                elif radix == 4:
                    a, b, c, e = dft4(
                        swap(load(z, o)), times(swap(load(z, o + d)), number(rotations, k + 1)),
                        times(swap(load(z, o + 2 * d)), number(rotations, k + 2)),
                        times(swap(load(z, o + 3 * d)), number(rotations, k + 3)),
                    )  # fmt: skip
                    store(z, o, swap(a))
                    store(z, o + d, swap(b))
                    store(z, o + 2 * d, swap(c))
                    store(z, o + 3 * d, swap(e))
                elif radix == 5:
                    a, b, c, e, f = dft5(
                        swap(load(z, o)), times(swap(load(z, o + d)), number(rotations, k + 1)),
                        times(swap(load(z, o + 2 * d)), number(rotations, k + 2)),
                        times(swap(load(z, o + 3 * d)), number(rotations, k + 3)),
                        times(swap(load(z, o + 4 * d)), number(rotations, k + 4)),
                    )  # fmt: skip
                    store(z, o, swap(a))
                    store(z, o + d, swap(b))
                    store(z, o + 2 * d, swap(c))
                    store(z, o + 3 * d, swap(e))
                    store(z, o + 4 * d, swap(f))
                elif radix == 7:
                    a, b, c, e, f, g, p = dft7(
                        swap(load(z, o)), times(swap(load(z, o + d)), number(rotations, k + 1)),
                        times(swap(load(z, o + 2 * d)), number(rotations, k + 2)),
                        times(swap(load(z, o + 3 * d)), number(rotations, k + 3)),
                        times(swap(load(z, o + 4 * d)), number(rotations, k + 4)),
                        times(swap(load(z, o + 5 * d)), number(rotations, k + 5)),
                        times(swap(load(z, o + 6 * d)), number(rotations, k + 6)),
                    )  # fmt: skip
                    store(z, o, swap(a))
                    store(z, o + d, swap(b))
                    store(z, o + 2 * d, swap(c))
                    store(z, o + 3 * d, swap(e))
                    store(z, o + 4 * d, swap(f))
                    store(z, o + 5 * d, swap(g))
                    store(z, o + 6 * d, swap(p))
                elif radix == 8:
                    a, b, c, e, f, g, p, q = dft8(
                        swap(load(z, o)), times(swap(load(z, o + d)), number(rotations, k + 1)),
                        times(swap(load(z, o + 2 * d)), number(rotations, k + 2)),
                        times(swap(load(z, o + 3 * d)), number(rotations, k + 3)),
                        times(swap(load(z, o + 4 * d)), number(rotations, k + 4)),
                        times(swap(load(z, o + 5 * d)), number(rotations, k + 5)),
                        times(swap(load(z, o + 6 * d)), number(rotations, k + 6)),
                        times(swap(load(z, o + 7 * d)), number(rotations, k + 7)),
                    )  # fmt: skip
                    store(z, o, swap(a))
                    store(z, o + d, swap(b))
                    store(z, o + 2 * d, swap(c))
                    store(z, o + 3 * d, swap(e))
                    store(z, o + 4 * d, swap(f))
                    store(z, o + 5 * d, swap(g))
                    store(z, o + 6 * d, swap(p))
                    store(z, o + 7 * d, swap(q))
                else:
                    store(z, o, swap(load(z, o)))
                    for q in range(1, radix):
                        store(z, o + q * d, times(swap(load(z, o + q * d)), number(rotations, k + q)))
                    _prime(z, o, d, radix, rotations, stages[stage, 1], work)
                    for q in range(radix):
                        store(z, o + q * d, swap(load(z, o + q * d)))


@compiled
@no_type_check
def _prime(z, o, d, p, rotations, roots, work):
    """The transform of p numbers d apart, p odd, from the sums and differences of those that mirror each other."""
    wide = 2 * lane_count(z)
    half = p // 2
    first = load(z, o)
    total = first
    for q in range(1, half + 1):
        a, b = load(z, o + q * d), load(z, o + (p - q) * d)
        store(work, 2 * (q - 1) * wide, a + b)
        store(work, (2 * q - 1) * wide, a - b)
        total = total + (a + b)
    store(z, o, total)
    for k in range(1, half + 1, 2):  # two frequencies at a time: half the loads
        even, odd, even2, odd2, turn, turn2 = first, zero(z), first, zero(z), 0, 0
        for q in range(half):
            turn, turn2 = turn + k, turn2 + k + 1
            turn, turn2 = turn - p if turn >= p else turn, turn2 - p if turn2 >= p else turn2
            plus, minus = load(work, 2 * q * wide), load(work, (2 * q + 1) * wide)
            root, root2 = number(rotations, roots + turn), number(rotations, roots + turn2)
            even, odd = even + plus * root.real, odd + minus * root.imag
            even2, odd2 = even2 + plus * root2.real, odd2 + minus * root2.imag
        odd, odd2 = times_minus_i(odd), times_minus_i(odd2)
        store(z, o + k * d, even - odd)
        store(z, o + (p - k) * d, even + odd)
        if k < half:
            store(z, o + (k + 1) * d, even2 - odd2)
            store(z, o + (p - k - 1) * d, even2 + odd2)
