"""Triton decay scan, h_t = exp(l_t) h_{t-1} + x_t, forward and backward: one read and one write of the data.

A program is one warp that owns one row (b, r) and BLOCK_C channels, and walks over time in tiles of BLOCK_T steps. A
tile is BLOCK_T independent loads into registers, issued one tile before they are used, so that loads are always in
flight (the loop begins one tile early, and only loads there). The carry stays in its register. With too few programs
to fill the device, time is split and two kernels run: `*_ends_kernel` finds what each chunk adds to the carry, then
each chunk starts from the carry its predecessors leave. A decay of exactly 0 selects instead of multiplying: it
forgets even inf and NaN.

Backward, with u_t = exp(l_t) s_t: s_t = g_t + u_{t+1}, dx = s, dl_t = sum_c u_t h_{t-1}, dh0 = u_1.

Arguments are inputs, sizes, then outputs: the order in which both torch and jax-triton launch. x, out (B,T,R,C);
log_a (B,T,R); h0 (B,R,C); ends (chunks, B*R, C) of the carry's dtype; products (chunks, B*R, 2) int32: the two
halves of a float64, whose range does not run out before float32 does (JAX has no float64 by default).
Source: docs/math.md section 1.
"""

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl

BLOCK_T, BLOCK_T_BACKWARD = 64, 32  # a lane holds two tiles of x, or two of g and two of h, in registers
NUM_WARPS = 1


class Geometry(NamedTuple):
    """How a scan is cut: rows B*R, `chunks` of `chunk` steps, `blocks` of `block_c` channels."""

    rows: int
    chunks: int
    blocks: int
    chunk: int
    block_c: int

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.rows, self.chunks, self.blocks

    def launch(self, backward: bool = False) -> dict[str, Any]:
        """What both launchers take beside the arguments."""
        return {
            "BLOCK_T": BLOCK_T_BACKWARD if backward else BLOCK_T, "BLOCK_C": self.block_c, "num_warps": NUM_WARPS,
        }  # fmt: skip


def plan(shape: tuple[int, ...], processors: int, split: bool | None = None) -> Geometry:
    """Launch geometry for x of `shape` (B, T, R, C) on a device of `processors` multiprocessors.

    Blocks of 32 channels, or 16 when that leaves fewer than 2 programs per processor. If 16 does too, time is split
    into chunks (of at least two tiles) until there are 4. split=True or False decides about the split by hand.

    >>> plan((2, 1024, 64, 64), 132).grid, plan((1, 65536, 4, 64), 132).grid
    ((128, 1, 4), (4, 33, 4))
    """
    batch, steps, rows, channels = shape
    block_c = min(32, triton.next_power_of_2(channels))
    if batch * rows * triton.cdiv(channels, block_c) < 2 * processors:
        block_c = min(16, block_c)
    blocks = triton.cdiv(channels, block_c)
    programs = batch * rows * blocks
    if split is None:
        split = programs < 2 * processors and steps > 4 * BLOCK_T
    chunks = max(2, min(triton.cdiv(4 * processors, programs), steps // (2 * BLOCK_T))) if split else 1
    chunk = triton.cdiv(steps, chunks)
    return Geometry(batch * rows, triton.cdiv(steps, chunk), blocks, chunk, block_c)


@triton.jit
@no_type_check
def _place(steps, rows, channels, chunk, BLOCK_C: tl.constexpr):
    """Offset of (b, first step of the chunk, r) in log_a; channels and their mask; first step; steps in the chunk."""
    row, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * chunk
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    offset = (row // rows * steps + first) * rows + row % rows
    return offset, c, c < channels, first, tl.minimum(chunk, steps - first)


@triton.jit
@no_type_check
def _zeros(like, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    tile = ()
    for _ in tl.static_range(BLOCK_T):
        tile = tile + (tl.zeros([BLOCK_C], like.dtype.element_ty),)
    return tile


@triton.jit
@no_type_check
def _tile(pointers, t, bound, stride, BLOCK_T: tl.constexpr):
    """Steps t .. t + BLOCK_T - 1 of (time, BLOCK_C), as a tuple of vectors; 0 from `bound` (BLOCK_C,) on."""
    tile, at = (), pointers + tl.cast(t, tl.int64) * stride
    for i in tl.static_range(BLOCK_T):
        tile = tile + (tl.load(at, mask=t + i < bound, other=0.0),)
        at += stride
    return tile


@triton.jit
@no_type_check
def _logs(log_a, t, length, stride, BLOCK_T: tl.constexpr):
    """log_a of BLOCK_T steps, one or two per lane; 0 from `length` on."""
    t = t + tl.arange(0, BLOCK_T)
    return tl.load(log_a + t.to(tl.int64) * stride, mask=t < length, other=0.0)


@triton.jit
@no_type_check
def _pick(values, i: tl.constexpr, BLOCK_C: tl.constexpr):
    """Element i of a vector, on every lane."""
    return tl.gather(values, tl.full([BLOCK_C], i, tl.int32), 0)


@triton.jit
@no_type_check
def _carried(carry, ends, products, k, c, mask, channels):
    """The carry after chunk k: product carry + end. 0 times an overflowed product is 0."""
    at = tl.cast(k, tl.int64) * tl.num_programs(0) + tl.program_id(0)
    both = products + 2 * at + c * 0
    low, high = tl.load(both).to(tl.int64), tl.load(both + 1).to(tl.int64)
    product = (high * 4294967296 + tl.where(low < 0, low + 4294967296, low)).to(tl.float64, bitcast=True)
    grown = tl.where((product == 0) | (carry == 0), 0.0, product * carry.to(tl.float64))
    return grown.to(carry.dtype) + tl.load(ends + at * channels + c, mask=mask, other=0.0)


@triton.jit
@no_type_check
def _store_end(ends, products, end, product, c, mask, channels):
    at = tl.cast(tl.program_id(1), tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(ends + at * channels + c, end, mask=mask)
    bits, both = product.to(tl.int64, bitcast=True), products + 2 * at + c * 0
    tl.store(both, bits.to(tl.int32), mask=c == 0)
    tl.store(both + 1, (bits >> 32).to(tl.int32), mask=c == 0)


@triton.jit
@no_type_check
def forward_ends_kernel(
    log_a, x, steps, rows, channels, chunk, ends, products, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr
):
    """The state at the end of each chunk when it starts from zero, and the product of its decays."""
    carry: tl.constexpr = ends.dtype.element_ty
    offset, c, mask, _, length = _place(steps, rows, channels, chunk, BLOCK_C)
    stride, bound = tl.cast(rows, tl.int64) * channels, tl.where(mask, length, 0)
    source = x + offset * channels + c
    h, product = tl.zeros([BLOCK_C], carry), tl.full([BLOCK_C], 1.0, tl.float64)
    tile, logs = _zeros(x, BLOCK_T, BLOCK_C), tl.zeros([BLOCK_T], log_a.dtype.element_ty)
    for t in range(-BLOCK_T, length, BLOCK_T):
        ahead = _tile(source, t + BLOCK_T, bound, stride, BLOCK_T)
        logs_ahead = _logs(log_a + offset, t + BLOCK_T, length, rows, BLOCK_T)
        decays = tl.exp(logs.to(carry))
        if t >= 0:
            for i in tl.static_range(BLOCK_T):
                a = _pick(decays, i, BLOCK_C)
                h = tl.where(a == 0, 0.0, a * h) + tile[i].to(carry)
                product *= a
        tile, logs = ahead, logs_ahead
    _store_end(ends, products, h, product, c, mask, channels)


@triton.jit
@no_type_check
def forward_kernel(
    log_a, x, h0, ends, products, steps, rows, channels, chunk, out,
    HAS_H0: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out of one chunk, from the carry that h0 and the chunks before it leave."""
    carry: tl.constexpr = ends.dtype.element_ty
    offset, c, mask, _, length = _place(steps, rows, channels, chunk, BLOCK_C)
    stride, bound = tl.cast(rows, tl.int64) * channels, tl.where(mask, length, 0)
    source, target = x + offset * channels + c, out + offset * channels + c
    h = tl.zeros([BLOCK_C], carry)
    if HAS_H0:
        h = tl.load(h0 + tl.program_id(0).to(tl.int64) * channels + c, mask=mask, other=0.0).to(carry)
    for k in range(tl.program_id(1)):
        h = _carried(h, ends, products, k, c, mask, channels)
    tile, logs = _zeros(x, BLOCK_T, BLOCK_C), tl.zeros([BLOCK_T], log_a.dtype.element_ty)
    for t in range(-BLOCK_T, length, BLOCK_T):
        ahead = _tile(source, t + BLOCK_T, bound, stride, BLOCK_T)
        logs_ahead = _logs(log_a + offset, t + BLOCK_T, length, rows, BLOCK_T)
        decays = tl.exp(logs.to(carry))
        if t >= 0:
            for i in tl.static_range(BLOCK_T):
                a = _pick(decays, i, BLOCK_C)
                h = tl.where(a == 0, 0.0, a * h) + tile[i].to(carry)
                tl.store(target, h.to(out.dtype.element_ty), mask=t + i < bound)
                target += stride
        tile, logs = ahead, logs_ahead


@triton.jit
@no_type_check
def backward_ends_kernel(
    log_a, g, steps, rows, channels, chunk, ends, products, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr
):
    """u at the first step of each chunk when nothing comes from after it, and the product of its decays."""
    carry: tl.constexpr = ends.dtype.element_ty
    offset, c, mask, _, length = _place(steps, rows, channels, chunk, BLOCK_C)
    stride, bound = tl.cast(rows, tl.int64) * channels, tl.where(mask, length, 0)
    offset += tl.cast(length - 1, tl.int64) * rows  # t counts backwards from the last step of the chunk
    source = g + offset * channels + c
    u, product = tl.zeros([BLOCK_C], carry), tl.full([BLOCK_C], 1.0, tl.float64)
    tile, logs = _zeros(g, BLOCK_T, BLOCK_C), tl.zeros([BLOCK_T], log_a.dtype.element_ty)
    for t in range(-BLOCK_T, length, BLOCK_T):
        ahead = _tile(source, t + BLOCK_T, bound, -stride, BLOCK_T)
        logs_ahead = _logs(log_a + offset, t + BLOCK_T, length, -rows, BLOCK_T)
        decays = tl.exp(logs.to(carry))
        if t >= 0:
            for i in tl.static_range(BLOCK_T):
                a = _pick(decays, i, BLOCK_C)
                u = tl.where(a == 0, 0.0, a * (u + tile[i].to(carry)))
                product *= a
        tile, logs = ahead, logs_ahead
    _store_end(ends, products, u, product, c, mask, channels)


@triton.jit
@no_type_check
def backward_kernel(
    log_a, g, h, h0, ends, products, steps, rows, channels, chunk, dlog_a, dx, dh0,
    HAS_H0: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dx of one chunk, dlog_a (blocks,B,T,R) summed over the channels of this block, and dh0."""
    carry: tl.constexpr = ends.dtype.element_ty
    offset, c, mask, first, length = _place(steps, rows, channels, chunk, BLOCK_C)
    stride, bound = tl.cast(rows, tl.int64) * channels, tl.where(mask, length, 0)
    offset += tl.cast(length - 1, tl.int64) * rows  # t counts backwards from the last step of the chunk
    source, past, target = g + offset * channels + c, h + offset * channels + c - stride, dx + offset * channels + c
    sums = dlog_a + tl.program_id(2).to(tl.int64) * tl.num_programs(0) * steps + offset
    state = tl.program_id(0).to(tl.int64) * channels + c
    h_first, u = tl.zeros([BLOCK_C], carry), tl.zeros([BLOCK_C], carry)
    if HAS_H0:
        h_first = tl.load(h0 + state, mask=mask, other=0.0).to(carry)
    for k in range(tl.num_programs(1) - 1, tl.program_id(1), -1):
        u = _carried(u, ends, products, k, c, mask, channels)
    known = length - (first == 0).to(tl.int32)  # the past of the very first step is h0, not in h
    known_bound, lane = tl.where(mask, known, 0), tl.arange(0, BLOCK_T)
    tile, logs = _zeros(g, BLOCK_T, BLOCK_C), tl.zeros([BLOCK_T], log_a.dtype.element_ty)
    before = _zeros(h, BLOCK_T, BLOCK_C)
    for t in range(-BLOCK_T, length, BLOCK_T):
        ahead = _tile(source, t + BLOCK_T, bound, -stride, BLOCK_T)
        ahead_before = _tile(past, t + BLOCK_T, known_bound, -stride, BLOCK_T)
        logs_ahead = _logs(log_a + offset, t + BLOCK_T, length, -rows, BLOCK_T)
        decays = tl.exp(logs.to(carry))
        if t >= 0:
            totals = tl.zeros([BLOCK_T], carry)
            for i in tl.static_range(BLOCK_T):
                a = _pick(decays, i, BLOCK_C)
                s = u + tile[i].to(carry)
                u = tl.where(a == 0, 0.0, a * s)
                h_past = tl.where(t + i == known, h_first, before[i].to(carry))
                tl.store(target, s.to(dx.dtype.element_ty), mask=t + i < bound)
                totals = tl.where(lane == i, tl.sum(tl.where(a == 0, 0.0, u * h_past), 0), totals)
                target -= stride
            tl.store(sums - (t + lane).to(tl.int64) * rows, totals, mask=t + lane < length)
        tile, logs = ahead, logs_ahead
        before = ahead_before
    tl.store(dh0 + state, u.to(dh0.dtype.element_ty), mask=tl.where(mask, first, 1) == 0)
