"""The Triton implementation of `cssm.torch.spectral_scan`: custom operators, so that torch.compile sees them whole.

Complex arrays enter and leave as real ones (half spectra, flattened, or packed states): autograd never meets a kernel.
"""

import contextlib

import torch
from triton import JITFunction

from cssm.core.errors import UsageError
from cssm.kernels import spectral_schedule as schedule
from cssm.kernels.spectral_frequency import frequency_gradient, frequency_scan
from cssm.kernels.spectral_layout import LARGEST, Gather, layout

Tensor = torch.Tensor


def spectral_triton(x, spectrum, state, reset, readout):
    """(state, y), the arguments checked by `spectral_scan`."""
    if state.dtype != torch.complex64:
        raise UsageError("the triton implementation computes in float32: for float64 use implementation='parallel'")
    if not x.is_cuda and isinstance(schedule.spectral_scan_kernel, JITFunction):
        raise UsageError(f"the triton implementation needs a GPU tensor, x is on {x.device}: use 'stream'")
    reset = None if reset is None else reset.to(torch.int8)
    run = _fused if max(x.shape[2:4]) <= LARGEST else _between_transforms
    return run(x.contiguous(), spectrum, state, reset, readout)


def _fused(x, spectrum, state, reset, readout):
    height, width = x.shape[2:4]
    plan = layout(height, width)
    gain, start = _gather(plan.gain, spectrum, plan.shape), _gather(plan.pack, state, plan.shape)
    y = None
    if readout == "last":
        final, _ = spectral_last(x, gain, start, reset, gain.requires_grad and torch.is_grad_enabled())
    else:
        y, final, _ = spectral_frames(x, gain, start, reset)
        y = y.mean(1) if readout == "mean" else y
    index, scale = (torch.as_tensor(array[0], device=x.device) for array in plan.unpack)
    final = torch.view_as_complex((final.flatten(2)[..., index] * scale).reshape(*state.shape, 2))
    if y is None:
        y = torch.fft.irfft2(final, s=(height, width)).permute(0, 2, 3, 1).to(x.dtype)
    return final, y


def _gather(gather: Gather, spectrum, shape):
    """Packed (..., 4, columns, rows) from a half spectrum (..., H, Wf)."""
    flat = torch.view_as_real(spectrum.contiguous()).flatten(-3)
    parts = [
        flat[..., torch.as_tensor(index, device=flat.device)] * torch.as_tensor(scale, device=flat.device)
        for index, scale in zip(*gather, strict=True)
    ]
    return sum(parts[1:], parts[0]).reshape(*flat.shape[:-1], *shape)


def _between_transforms(x, spectrum, state, reset, readout):
    """FFT, a scan per frequency, inverse FFT: for grids above LARGEST."""
    height, width = x.shape[2:4]
    frames = torch.fft.rfft2(x.float().permute(0, 1, 4, 2, 3))
    flat = [torch.view_as_real(array.contiguous()).flatten(-4, -2) for array in (frames, spectrum, state)]
    states = torch.view_as_complex(spectral_frequencies(*flat, reset).reshape(*frames.shape, 2))
    shown = {"all": lambda: states, "last": lambda: states[:, -1], "mean": lambda: states.mean(1)}[readout]()
    return states[:, -1], torch.fft.irfft2(shown, s=(height, width)).movedim(-3, -1).to(x.dtype)


def _call(kernel, inputs, outputs, grid, warps, stages, **constants):
    made = [torch.empty(shape, dtype=like.dtype, device=like.device) for shape, like in outputs]
    on = torch.cuda.device(made[0].device) if made[0].is_cuda else contextlib.nullcontext()
    with on:
        kernel[grid](*inputs, *made, num_warps=warps, num_stages=stages, **constants)
    return made


def _basis(like):
    return torch.as_tensor(layout(*like.shape[2:4]).basis, device=like.device)


def _weight(like, gain):
    """2 inside, 1 on the edges, broadcastable to packed arrays: their cotangents are s / weight."""
    return torch.as_tensor(layout(*like.shape[2:4]).weight, device=gain.device)


@torch.library.custom_op("cssm::spectral_frames", mutates_args=())
def spectral_frames(x: Tensor, gain: Tensor, start: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(y, final state, state before every chunk)."""
    plan = schedule.make_plan(tuple(x.shape))
    y, final, starts, _ = schedule.scan(_call, plan, x, gain, _basis(x), start, reset)
    return y, final, starts if plan.chunks > 1 else starts.clone()  # an operator returns no view of its input


@spectral_frames.register_fake
def _(x, gain, start, reset):
    plan = schedule.make_plan(tuple(x.shape))
    return torch.empty_like(x), torch.empty_like(start), start.new_empty((plan.batch, plan.chunks, *plan.packed))


@torch.library.custom_op("cssm::spectral_frames_backward", mutates_args=())
def spectral_frames_backward(
    x: Tensor, g: Tensor, gain: Tensor, starts: Tensor, final: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of x, gain and start from those of y and of the final state."""
    plan, basis, weight = schedule.make_plan(tuple(x.shape)), _basis(x), _weight(x, gain)
    dx, dstart, after, _ = schedule.scan(_call, plan, g, gain, basis, final * weight, reset, reverse=True)
    dgain = schedule.gain_gradient(_call, plan, x, g, gain, basis, starts, after, reset)
    return dx, dgain / weight, dstart / weight


@spectral_frames_backward.register_fake
def _(x, g, gain, starts, final, reset):
    return torch.empty_like(x), torch.empty_like(gain), torch.empty_like(final)


def _save_frames(ctx, inputs, output):
    x, gain, _, reset = inputs
    ctx.save_for_backward(x, gain, output[2], reset)


def _frames_gradient(ctx, g, final, _):
    x, gain, starts, reset = ctx.saved_tensors
    return *spectral_frames_backward(x, g.contiguous(), gain, starts, final, reset), None


spectral_frames.register_autograd(_frames_gradient, setup_context=_save_frames)


@torch.library.custom_op("cssm::spectral_last", mutates_args=())
def spectral_last(x: Tensor, gain: Tensor, start: Tensor, reset: Tensor | None, slopes: bool) -> tuple[Tensor, Tensor]:
    """(final state, its slope dS/dK or an empty array)."""
    plan = schedule.make_plan(tuple(x.shape))
    options = {"frames": False, "slopes": slopes}
    _, final, _, slope = schedule.scan(_call, plan, x, gain, _basis(x), start, reset, **options)
    return final, gain.new_empty(0) if slope is None else slope


@spectral_last.register_fake
def _(x, gain, start, reset, slopes):
    return torch.empty_like(start), torch.empty_like(start) if slopes else gain.new_empty(0)


@torch.library.custom_op("cssm::spectral_last_backward", mutates_args=())
def spectral_last_backward(
    like: Tensor, steps: int, gain: Tensor, slope: Tensor, final: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of x, gain and start; like (0, 0, H, W, C) has x's grid and dtype."""
    weight, basis = _weight(like, gain), _basis(like)
    after = final * weight
    plan = schedule.make_plan((final.shape[0], steps, *like.shape[2:]))
    options = {"reverse": True, "like": like}
    dx, dstart, _, _ = schedule.scan(_call, plan, None, gain, basis, after, reset, **options)
    corner = torch.as_tensor(layout(*like.shape[2:4]).corner, device=gain.device)
    dgain = (
        schedule.conjugate_product(after, slope, corner, torch.stack).sum(0)
        if slope.numel()
        else gain.new_zeros(gain.shape)
    )
    return dx, dgain / weight, dstart / weight


@spectral_last_backward.register_fake
def _(like, steps, gain, slope, final, reset):
    return like.new_empty((final.shape[0], steps, *like.shape[2:])), torch.empty_like(gain), torch.empty_like(final)


def _save_last(ctx, inputs, output):
    x, gain, _, reset, _ = inputs
    ctx.steps = x.shape[1]
    ctx.save_for_backward(x.new_empty((0, 0, *x.shape[2:])), gain, output[1], reset)


def _last_gradient(ctx, final, _):
    like, gain, slope, reset = ctx.saved_tensors
    return *spectral_last_backward(like, ctx.steps, gain, slope, final, reset), None, None


spectral_last.register_autograd(_last_gradient, setup_context=_save_last)


@torch.library.custom_op("cssm::spectral_frequencies", mutates_args=())
def spectral_frequencies(x: Tensor, gain: Tensor, start: Tensor, reset: Tensor | None) -> Tensor:
    """All states (B, T, F, 2)."""
    return frequency_scan(_call, x, gain, start, reset)


@spectral_frequencies.register_fake
def _(x, gain, start, reset):
    return torch.empty_like(x)


@torch.library.custom_op("cssm::spectral_frequencies_backward", mutates_args=())
def spectral_frequencies_backward(
    g: Tensor, gain: Tensor, start: Tensor, states: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of x, gain and start."""
    return frequency_gradient(_call, g, gain, start, states, reset)


@spectral_frequencies_backward.register_fake
def _(g, gain, start, states, reset):
    return torch.empty_like(g), torch.empty_like(gain), torch.empty_like(start)


def _save_frequencies(ctx, inputs, output):
    _, gain, start, reset = inputs
    ctx.save_for_backward(gain, start, output, reset)


def _frequencies_gradient(ctx, g):
    gain, start, states, reset = ctx.saved_tensors
    return *spectral_frequencies_backward(g.contiguous(), gain, start, states, reset), None


spectral_frequencies.register_autograd(_frequencies_gradient, setup_context=_save_frequencies)


def _refuse(ctx, *cotangents):
    raise UsageError("spectral_scan has no second derivative here: use implementation='reference'")


for _operator in (spectral_frames_backward, spectral_last_backward, spectral_frequencies_backward):
    _operator.register_autograd(_refuse)
