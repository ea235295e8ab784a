"""The compiled kernel of `kernels/spectral_cpu.py` for PyTorch on CPUs: two operators that torch.compile keeps whole.

Forward and backward as in cssm/ops/spectral/native.py; no array is copied. Cotangents are dL/dRe + i dL/dIm.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from cssm.core.errors import UsageError
from cssm.core.typing import Float, HalfSpectrum, Reset, SpectralState, Video
from cssm.kernels.spectral_cpu import tasks
from cssm.shared.radix_plan import LARGEST_PRIME, plan, transformable, work_size
from cssm.shared.spectral import CONSTANT, FRAMES, NOTHING, NUMBERS, PRODUCTS, SCAN, SLOPES

from ..cpu_kernels import call, new_array
from .stream import adjoint_weight, to_spectrum


def why_not(x: Video) -> str | None:
    """Why the compiled kernel is not for this clip; None where it is."""
    if x.device.type != "cpu":
        return f"it is compiled for CPUs, not for {x.device.type}"
    for name, side in zip(("height", "width"), x.shape[2:4], strict=True):
        if not transformable(side):
            return f"the {name} {side} has a prime factor above {LARGEST_PRIME}"
    return None


def native(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str,
) -> tuple[SpectralState, Float[Tensor, "b *t h w c"]]:  # fmt: skip
    reason = why_not(x)
    if reason is not None:
        raise UsageError(f"implementation='native' of spectral_scan cannot run here: {reason}; leave it out")
    gradients = torch.is_grad_enabled() and any(t.requires_grad for t in (x, spectrum, state))
    data = x.to(state.real.dtype).contiguous()
    slopes = gradients and readout != "all"
    final, y, *_ = torch.ops.cssm.spectral_scan_cpu(data, spectrum, state, reset, readout, slopes)
    return final, y.to(x.dtype)


def _forward(
    x: Tensor, spectrum: Tensor, state: Tensor, reset: Tensor | None, readout: str, slopes: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The final state, y, and P and its sum, of no size where they are not wanted."""
    y, final, _, slope, slope_total = _scan(
        x,
        spectrum,
        state,
        reset,
        x.shape,
        every_frame=readout == "all",
        totals=readout == "mean",
        slopes=SLOPES * slopes,
    )
    return final, y, slope, slope_total


def _backward(
    x: Tensor, spectrum: Tensor, state: Tensor, reset: Tensor | None, slope: Tensor, slope_total: Tensor,
    after: Tensor, g: Tensor, readout: str, steps: int, width: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The cotangents of x, spectrum and state; x and state of no size where P stands for all that was seen."""
    weight = adjoint_weight(spectrum.shape[-2], width, spectrum)
    last, given = after / weight, None  # s of the last frame, but for g
    shape = (g.shape[0], steps, spectrum.shape[1], width, spectrum.shape[0])
    back = partial(_scan, shape=shape, every_frame=True, reverse=True)
    if readout == "all":
        dx, carried, _, through, _ = back(g, spectrum, last, reset, slopes=PRODUCTS, seen=x, before=state)
        return dx, through.sum(0) * weight, carried * weight
    frame = to_spectrum(g)
    last, given = (last + frame, None) if readout == "last" else (last, frame / steps)
    through = last * slope.conj()
    through = through if given is None else through + given * slope_total.conj()
    dx, carried, *_ = back(g.new_empty(*shape[:4], 0), spectrum, last, reset, given=given)
    return dx, through.sum(0) * weight, carried * weight


def _scan(
    x, spectrum, state, reset, shape, *, every_frame, reverse=False, totals=False, slopes=0, given=None, seen=None,
    before=None,
):  # fmt: skip
    """y, final, total, slope, slope_total of `spectral_cpu.scan`; x of no channels stands for no input, or `given`."""
    source = FRAMES if x.numel() else NOTHING if given is None else CONSTANT
    double = state.dtype == torch.complex128
    fresh = lambda wanted: torch.empty(state.shape if wanted else (0,), dtype=state.dtype)  # noqa: E731
    y = new_array(shape if every_frame else (shape[0], *shape[2:]), state.real.dtype)
    results = [y, fresh(True), fresh(totals), fresh(slopes), fresh(slopes and totals)]
    given, before = (fresh(False) if a is None else a for a in (given, before))
    reset = torch.empty(0, dtype=torch.bool) if reset is None else reset
    seen = x.new_empty(0) if seen is None else seen
    count = tasks(shape[0], shape[4], double)
    flags = (source, int(every_frame), int(reverse), int(totals), int(slopes))
    across, along = plan(shape[3], double), plan(shape[2], double)
    numbers = np.array([SCAN, count, *flags, work_size(*shape[2:4]), *[0] * (NUMBERS - 8)], np.int32)
    tables = [across.stages, across.rotations, across.place, along.stages, along.rotations, along.place]
    call(SCAN, double, count, [numbers, x, given, spectrum, state, reset, *tables, seen, before], results)
    return tuple(results)


_op = torch.library.custom_op(
    "cssm::spectral_scan_cpu", _forward, mutates_args=(),
    schema="(Tensor x, Tensor spectrum, Tensor state, Tensor? reset, str readout, bool slopes)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip
_gradient_op = torch.library.custom_op(
    "cssm::spectral_scan_cpu_backward", _backward, mutates_args=(),
    schema="(Tensor x, Tensor spectrum, Tensor state, Tensor? reset, Tensor slope, Tensor slope_total, Tensor after,"
    " Tensor g, str readout, int steps, int width) -> (Tensor, Tensor, Tensor)",
)  # fmt: skip


@_op.register_fake
def _(x, spectrum, state, reset, readout, slopes):
    alike = partial(torch.empty_like, memory_format=torch.contiguous_format)
    y = alike(x) if readout == "all" else x.new_empty((x.shape[0], *x.shape[2:]))
    fresh = lambda wanted: alike(state) if wanted else state.new_empty(0)  # noqa: E731
    return alike(state), y, fresh(slopes), fresh(slopes and readout == "mean")


@_gradient_op.register_fake
def _(x, spectrum, state, reset, slope, slope_total, after, g, readout, steps, width):
    alike = partial(torch.empty_like, memory_format=torch.contiguous_format)
    dx = g.new_empty((g.shape[0], steps, spectrum.shape[1], width, spectrum.shape[0]))
    return dx, alike(spectrum), alike(after)


def _save(ctx, inputs, output):
    x, spectrum, state, reset, ctx.readout, _ = inputs
    _, _, slope, slope_total = output
    ctx.mark_non_differentiable(slope, slope_total)
    ctx.steps, ctx.width = x.shape[1], x.shape[3]
    kept = (x, state) if ctx.readout == "all" else (x.new_empty(0), state.new_empty(0))
    ctx.save_for_backward(spectrum, reset, slope, slope_total, *kept)


def _gradient(ctx, after, g, *_):
    spectrum, reset, slope, slope_total, x, state = ctx.saved_tensors
    given = (x, spectrum, state, reset, slope, slope_total, after, g, ctx.readout, ctx.steps, ctx.width)
    return *torch.ops.cssm.spectral_scan_cpu_backward(*given), None, None, None


def _refuse(ctx, *_):
    raise UsageError("spectral_scan has no second derivative here: use implementation='reference'")


_op.register_autograd(_gradient, setup_context=_save)
_gradient_op.register_autograd(_refuse)
