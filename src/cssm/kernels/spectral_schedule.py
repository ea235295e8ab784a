"""Which spectral kernel runs when, on what grid: shared by JAX and PyTorch, which give `call` and the arrays.

    call(kernel, inputs, outputs, grid, warps, stages, **constants) -> arrays

with outputs as (shape, array of the wanted dtype) pairs. A clip of too few programs is cut into chunks of frames: the
chunks' own ends first (one read), then the state before every chunk, then the frames (one read, one write).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .spectral_layout import slots
from .spectral_scan import spectral_gain_gradient_kernel, spectral_join_kernel, spectral_scan_kernel

PROGRAMS = 264  # two for each of an H200's 132 multiprocessors
SHORTEST = 8  # frames of a chunk
PRECISION = "tf32x3"  # of the matrix products: float32 accuracy from three tensor-core products


@dataclass(frozen=True)
class Plan:
    batch: int
    steps: int
    height: int
    width: int
    channels: int
    block: int  # channels of one program
    length: int  # frames of a chunk

    @property
    def video(self) -> tuple[int, ...]:
        return self.batch, self.steps, self.height, self.width, self.channels

    @property
    def chunks(self) -> int:
        return -(-self.steps // self.length)

    @property
    def packed(self) -> tuple[int, ...]:
        """Shape of a packed K or of one packed state."""
        return self.channels, 4, slots(self.width), slots(self.height)

    @property
    def grid(self) -> tuple[int, int, int]:
        return -(-self.channels // self.block), self.chunks, self.batch

    @property
    def constants(self) -> dict[str, Any]:
        return {
            "H": self.height, "W": self.width, "C": self.channels, "BC": self.block,
            "ROWS": slots(self.height), "COLUMNS": slots(self.width), "PRECISION": PRECISION,
        }  # fmt: skip

    @property
    def warps(self) -> int:
        """128 threads hold a state of 4096 numbers in 32 registers each."""
        return 8 if slots(self.height) + slots(self.width) == 64 else 4

    @property
    def stages(self) -> int:
        """Frames in flight plus one; shared memory allows two of the largest."""
        return 2 if self.warps == 8 else 3


def make_plan(video: tuple[int, ...]) -> Plan:
    """Cut (B, T, H, W, C) so that PROGRAMS run at once, if chunks of SHORTEST frames allow it."""
    batch, steps, height, width, channels = video
    block = 4 if slots(height) + slots(width) == 32 else 2
    while block // 2 >= channels:
        block //= 2
    chunks = -(-PROGRAMS // (batch * -(-channels // block)))
    length = max(-(-steps // chunks), min(SHORTEST, steps))
    return Plan(batch, steps, height, width, channels, block, length)


def scan(
    call: Callable[..., Any],
    plan: Plan,
    x: Any,
    gain: Any,
    basis: Any,
    start: Any,
    reset: Any,
    *,
    reverse: bool = False,
    frames: bool = True,
    slopes: bool = False,
    like: Any = None,
) -> tuple[Any, Any, Any, Any]:
    """Run the recurrence: (y or None, final state, state before every chunk, slope dS_T/dK or None).

    x (B, T, H, W, C), or None for frames of zeros, y then of `like`'s dtype. start, final, slope: packed states
    (B, C, 4, columns, rows). Reversed: y_t is the frame of s_t = X_t + c_{t+1}, c_t = conj(K) s_t, c_{T+1} = start,
    final = c_1.
    """
    options = {"reverse": reverse, "slopes": slopes, "like": x if like is None else like}
    whole, y, ends, own = (plan.batch, *plan.packed), None, None, None
    if plan.chunks == 1:
        y, final, slope = _scan(call, plan, x, gain, basis, start, reset, write=frames, ends=True, **options)
        return y, final.reshape(whole), start[:, None], slope.reshape(whole) if slopes else None
    if x is not None:
        _, ends, own = _scan(call, plan, x, gain, basis, None, reset, write=False, ends=True, **options)
    starts, final, slope = _join(call, plan, gain, ends, own, start, reset, reverse=reverse, slopes=slopes)
    if frames:
        options["slopes"] = False
        y, _, _ = _scan(call, plan, x, gain, basis, starts, reset, write=True, ends=False, **options)
    return y, final, starts, slope


def gain_gradient(
    call: Callable[..., Any], plan: Plan, x: Any, g: Any, gain: Any, basis: Any, starts: Any, after: Any, reset: Any
) -> Any:
    """Packed sum over batch and time of s_t conj(S_{t-1}), from states before and cotangents after every chunk."""
    partial = (plan.batch, plan.chunks, *plan.packed)
    inputs = (x, g, gain, basis, starts, after, gain if reset is None else reset, plan.steps, plan.length)
    constants = {**plan.constants, "RESET": reset is not None}
    (out,) = call(spectral_gain_gradient_kernel, inputs, [(partial, gain)], plan.grid, 8, plan.stages, **constants)
    return out.sum((0, 1))


def conjugate_product(a: Any, b: Any, corner: Any, stack: Callable[..., Any]) -> Any:
    """Packed a conj(b), the parts along axis 2; corner as in Layout, stack the framework's."""
    parts = []
    for k in (0, 2):
        ar, ai, br, bi = a[:, :, k], a[:, :, k + 1], b[:, :, k], b[:, :, k + 1]
        parts += [ar * br + (1 - corner) * ai * bi, (1 - corner) * (ai * br - ar * bi) + corner * ai * bi]
    return stack(parts, 2)


def _scan(call, plan, x, gain, basis, start, reset, *, write, ends, reverse, slopes, like):
    inputs = [gain if array is None else array for array in (x, gain, basis, start, reset)]  # gain: not read
    chunked = (plan.batch, plan.chunks, *plan.packed)
    outputs = [
        (plan.video if write else (1,), like),
        (chunked if ends else (1,), gain),
        (chunked if slopes else (1,), gain),
    ]
    constants = {
        **plan.constants, "REVERSE": reverse, "READ": x is not None, "START": start is not None,
        "RESET": reset is not None, "WRITE": write, "ENDS": ends, "SLOPES": slopes,
    }  # fmt: skip
    inputs = (*inputs, plan.steps, plan.length)
    return call(spectral_scan_kernel, inputs, outputs, plan.grid, plan.warps, plan.stages, **constants)


def _join(call, plan, gain, ends, own, start, reset, *, reverse, slopes):
    plane, block = slots(plan.width) * slots(plan.height), 128
    whole = (plan.batch, *plan.packed)
    inputs = (gain, gain if ends is None else ends, gain if own is None else own, start)
    inputs = (*inputs, gain if reset is None else reset, plan.steps, plan.length, plan.chunks)
    outputs = [((plan.batch, plan.chunks, *plan.packed), gain), (whole, gain), (whole if slopes else (1,), gain)]
    constants = {
        "C": plan.channels, "PLANE": plane, "BLOCK": block, "REVERSE": reverse,
        "ENDS": ends is not None, "RESET": reset is not None, "SLOPES": slopes,
    }  # fmt: skip
    grid = (-(-plan.channels * plane // block), 2, plan.batch)
    return call(spectral_join_kernel, inputs, outputs, grid, 4, 1, **constants)
