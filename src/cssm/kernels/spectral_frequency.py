"""The spectral recurrence per frequency, the state in a register: for grids above 64, between two FFTs. Triton.

Complex arrays are interleaved float32: x, y, states, g (B, T, F, 2), gain (F, 2), start, final, out (B, F, 2), with
F = C * H * Wf. Per frequency and frame: one read and one write forward; two reads and one write backward.
"""

from collections.abc import Callable
from typing import Any, no_type_check

import triton
import triton.language as tl

BLOCK = 128  # frequencies of one program


@triton.jit
@no_type_check
def frequency_scan_kernel(
    x, gain, start, reset, T, F, y, BLOCK: tl.constexpr, RESET: tl.constexpr
):  # fmt: skip
    """y_t = S_t = K S_{t-1} + x_t. Grid: (blocks of F, B)."""
    f, b = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    exists = f < F
    kr, ki = tl.load(gain + 2 * f, mask=exists, other=0.0), tl.load(gain + 2 * f + 1, mask=exists, other=0.0)
    place = b * F * 2 + 2 * f
    r, i = tl.load(start + place, mask=exists, other=0.0), tl.load(start + place + 1, mask=exists, other=0.0)
    for t in range(T):
        here = (b * T + t) * F * 2 + 2 * f
        r, i = kr * r - ki * i, kr * i + ki * r
        if RESET:
            forget = tl.load(reset + b * T + t) != 0
            r, i = tl.where(forget, 0.0, r), tl.where(forget, 0.0, i)
        r += tl.load(x + here, mask=exists, other=0.0)
        i += tl.load(x + here + 1, mask=exists, other=0.0)
        tl.store(y + here, r, mask=exists)
        tl.store(y + here + 1, i, mask=exists)


@triton.jit
@no_type_check
def frequency_gradient_kernel(
    g, gain, start, states, reset, T, F, y, final, out, BLOCK: tl.constexpr, RESET: tl.constexpr
):
    """Backward in time: y_t = s_t = g_t + c_{t+1}, c_t = conj(K) s_t, final = c_1, out = sum_t s_t conj(S_{t-1})."""
    f, b = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    exists = f < F
    kr, ki = tl.load(gain + 2 * f, mask=exists, other=0.0), tl.load(gain + 2 * f + 1, mask=exists, other=0.0)
    place = b * F * 2 + 2 * f
    r, i = kr * 0, kr * 0
    dr, di = r, i
    for n in range(T):
        t = T - 1 - n
        here = (b * T + t) * F * 2 + 2 * f
        r += tl.load(g + here, mask=exists, other=0.0)
        i += tl.load(g + here + 1, mask=exists, other=0.0)
        tl.store(y + here, r, mask=exists)
        tl.store(y + here + 1, i, mask=exists)
        if t > 0:
            before, past = states, here - 2 * F
        else:
            before, past = start, place
        pr = tl.load(before + past, mask=exists, other=0.0)
        pi = tl.load(before + past + 1, mask=exists, other=0.0)
        ar, ai = r * pr + i * pi, i * pr - r * pi
        r, i = kr * r + ki * i, kr * i - ki * r
        if RESET:
            forget = tl.load(reset + b * T + t) != 0
            r, i, ar, ai = (
                tl.where(forget, 0.0, r),
                tl.where(forget, 0.0, i),
                tl.where(forget, 0.0, ar),
                tl.where(forget, 0.0, ai),
            )
        dr, di = dr + ar, di + ai
    tl.store(final + place, r, mask=exists)
    tl.store(final + place + 1, i, mask=exists)
    tl.store(out + place, dr, mask=exists)
    tl.store(out + place + 1, di, mask=exists)


def frequency_scan(call: Callable[..., Any], x: Any, gain: Any, start: Any, reset: Any) -> Any:
    """All states (B, T, F, 2), given `call` as in `spectral_schedule`."""
    batch, steps, size, _ = x.shape
    inputs = (x, gain, start, gain if reset is None else reset, steps, size)
    constants = {"BLOCK": BLOCK, "RESET": reset is not None}
    (states,) = call(frequency_scan_kernel, inputs, [(x.shape, gain)], (-(-size // BLOCK), batch, 1), 4, 4, **constants)
    return states


def frequency_gradient(call: Callable[..., Any], g: Any, gain: Any, start: Any, states: Any, reset: Any) -> Any:
    """Cotangents of x, gain and start."""
    batch, steps, size, _ = g.shape
    inputs = (g, gain, start, states, gain if reset is None else reset, steps, size)
    outputs = [(g.shape, gain), (start.shape, gain), (start.shape, gain)]
    constants = {"BLOCK": BLOCK, "RESET": reset is not None}
    dx, dstart, partial = call(
        frequency_gradient_kernel, inputs, outputs, (-(-size // BLOCK), batch, 1), 4, 4, **constants
    )
    return dx, partial.sum(0), dstart
