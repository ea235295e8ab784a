"""The Triton implementation of `cssm.torch.spectral_scan`: custom operators, so that torch.compile sees them whole.

Half spectra enter and leave the operators as real arrays (..., H, Wf, 2) and are packed inside (`spectral_layout`).
"""

import contextlib
from functools import lru_cache

import torch
from triton import JITFunction

from cssm.core.errors import UsageError
from cssm.core.typing import Float, HalfSpectrum, Reset, SpectralState, Video
from cssm.kernels import spectral_schedule as schedule
from cssm.kernels.spectral_frequency import frequency_gradient, frequency_scan
from cssm.kernels.spectral_layout import LARGEST, Layout

from ..transforms import refuse_forward_mode

Tensor = torch.Tensor


def spectral_triton(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str,
) -> tuple[SpectralState, Float[Tensor, "b *t h w c"]]:  # fmt: skip
    """(state, y), the arguments checked by `spectral_scan`."""
    if state.dtype != torch.complex64:
        raise UsageError("the triton implementation computes in float32: for float64 use implementation='parallel'")
    if not x.is_cuda and isinstance(schedule.spectral_scan_kernel, JITFunction):
        raise UsageError(f"the triton implementation needs a GPU tensor, x is on {x.device}: use 'stream'")
    refuse_forward_mode("spectral_scan with implementation='triton'", x, spectrum, state)
    reset = None if reset is None else reset.to(torch.int8)
    run = _fused if max(x.shape[2:4]) <= LARGEST else _between_transforms
    return run(x.contiguous(), spectrum, state, reset, readout)


def _fused(x, spectrum, state, reset, readout):
    gain, start = torch.view_as_real(spectrum.contiguous()), torch.view_as_real(state.contiguous())
    if readout == "last":
        final, _ = spectral_last(x, gain, start, reset, gain.requires_grad and torch.is_grad_enabled())
        final = torch.view_as_complex(final)
        return final, torch.fft.irfft2(final, s=tuple(x.shape[2:4])).permute(0, 2, 3, 1).to(x.dtype)
    y, final, _ = spectral_frames(x, gain, start, reset)
    return torch.view_as_complex(final), y.mean(1) if readout == "mean" else y


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
    with torch.cuda.device(made[0].device) if made[0].is_cuda else contextlib.nullcontext():
        kernel[grid](*inputs, *made, num_warps=warps, num_stages=stages, **constants)
    return made


class _Tables:
    """A Layout's constants on a device. `weight`: a packed cotangent is s / weight."""

    def __init__(self, height: int, width: int, device: torch.device):
        plan = Layout(height, width)
        self.shape, half = plan.shape, height * (width // 2 + 1) * 2
        self.basis, self.weight, self.corner = (
            torch.as_tensor(array, device=device) for array in (plan.basis, plan.weight, plan.corner)
        )
        maps = {"gain": plan.gain, "pack": plan.pack, "unpack": plan.unpack}
        maps["gain_back"], maps["pack_back"] = plan.gain.transposed(half), plan.pack.transposed(half)
        maps["unpack_back"] = plan.unpack.transposed(plan.weight.size * 4)
        self._maps = {k: [torch.as_tensor(array, device=device) for array in maps[k]] for k in maps}

    def pack(self, name: str, half: Tensor) -> Tensor:
        """(..., H, Wf, 2) to (..., 4, columns, rows), by "gain", "pack" or "unpack_back"."""
        return self._map(name, half.flatten(-3)).reshape(*half.shape[:-3], *self.shape)

    def unpack(self, name: str, packed: Tensor, like: Tensor) -> Tensor:
        """(..., 4, columns, rows) to like's (..., H, Wf, 2), by "unpack", "gain_back" or "pack_back"."""
        return self._map(name, packed.flatten(-3)).reshape(*packed.shape[:-3], *like.shape[-3:])

    def _map(self, name, flat):
        index, scale = self._maps[name]
        return (flat[..., index] * scale).sum(-2)


_tables = lru_cache(maxsize=64)(_Tables)


def _prepare(like, spectrum, steps=None, batch=None):
    """(plan, tables, packed K) of a call whose x has like's grid and dtype."""
    shape = (like.shape[0] if batch is None else batch, like.shape[1] if steps is None else steps, *like.shape[2:])
    tables = _tables(*like.shape[2:4], like.device)
    return schedule.make_plan(shape), tables, tables.pack("gain", spectrum)


@torch.library.custom_op("cssm::spectral_frames", mutates_args=())
def spectral_frames(x: Tensor, spectrum: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(y, final state, packed state before every chunk)."""
    plan, tables, gain = _prepare(x, spectrum)
    start = tables.pack("pack", state)
    y, final, starts, _ = schedule.scan(_call, plan, x, gain, tables.basis, start, reset)
    return y, tables.unpack("unpack", final, state), starts


@spectral_frames.register_fake
def _(x, spectrum, state, reset):
    plan = schedule.make_plan(tuple(x.shape))
    return torch.empty_like(x), torch.empty_like(state), state.new_empty((plan.batch, plan.chunks, *plan.packed))


@torch.library.custom_op("cssm::spectral_frames_backward", mutates_args=())
def spectral_frames_backward(
    x: Tensor, g: Tensor, spectrum: Tensor, starts: Tensor, final: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of x, the spectrum and the state, from those of y and of the final state."""
    plan, tables, gain = _prepare(x, spectrum)
    after = tables.pack("unpack_back", final) * tables.weight
    dx, dstart, afters, _ = schedule.scan(_call, plan, g, gain, tables.basis, after, reset, reverse=True)
    dgain = schedule.gain_gradient(_call, plan, x, g, gain, tables.basis, starts, afters, reset)
    dspectrum = tables.unpack("gain_back", dgain / tables.weight, spectrum)
    return dx, dspectrum, tables.unpack("pack_back", dstart / tables.weight, final)


@spectral_frames_backward.register_fake
def _(x, g, spectrum, starts, final, reset):
    return torch.empty_like(x), torch.empty_like(spectrum), torch.empty_like(final)


def _save_frames(ctx, inputs, output):
    x, spectrum, _, reset = inputs
    ctx.save_for_backward(x, spectrum, output[2], reset)


def _frames_gradient(ctx, g, final, _):
    x, spectrum, starts, reset = ctx.saved_tensors
    return *spectral_frames_backward(x, g.contiguous(), spectrum, starts, final.contiguous(), reset), None


@torch.library.custom_op("cssm::spectral_last", mutates_args=())
def spectral_last(
    x: Tensor, spectrum: Tensor, state: Tensor, reset: Tensor | None, slopes: bool
) -> tuple[Tensor, Tensor]:
    """(final state, its packed slope dS/dK or an empty array)."""
    plan, tables, gain = _prepare(x, spectrum)
    start = tables.pack("pack", state)
    _, final, _, slope = schedule.scan(_call, plan, x, gain, tables.basis, start, reset, frames=False, slopes=slopes)
    return tables.unpack("unpack", final, state), gain.new_empty(0) if slope is None else slope


@spectral_last.register_fake
def _(x, spectrum, state, reset, slopes):
    shape = (x.shape[0], *schedule.make_plan(tuple(x.shape)).packed) if slopes else (0,)
    return torch.empty_like(state), state.new_empty(shape)


@torch.library.custom_op("cssm::spectral_last_backward", mutates_args=())
def spectral_last_backward(
    like: Tensor, steps: int, spectrum: Tensor, slope: Tensor, final: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cotangents of x, the spectrum and the state; like (0, 0, H, W, C) has x's grid and dtype."""
    plan, tables, gain = _prepare(like, spectrum, steps, final.shape[0])
    after = tables.pack("unpack_back", final) * tables.weight
    options = {"reverse": True, "like": like}
    dx, dstart, _, _ = schedule.scan(_call, plan, None, gain, tables.basis, after, reset, **options)
    dspectrum = torch.zeros_like(spectrum)
    if slope.numel():
        dgain = schedule.conjugate_product(after, slope, tables.corner, torch.stack).sum(0)
        dspectrum = tables.unpack("gain_back", dgain / tables.weight, spectrum)
    return dx, dspectrum, tables.unpack("pack_back", dstart / tables.weight, final)


@spectral_last_backward.register_fake
def _(like, steps, spectrum, slope, final, reset):
    dx = like.new_empty((final.shape[0], steps, *like.shape[2:]))
    return dx, torch.empty_like(spectrum), torch.empty_like(final)


def _save_last(ctx, inputs, output):
    x, spectrum, _, reset, _ = inputs
    ctx.steps = x.shape[1]
    ctx.save_for_backward(x.new_empty((0, 0, *x.shape[2:])), spectrum, output[1], reset)


def _last_gradient(ctx, final, _):
    like, spectrum, slope, reset = ctx.saved_tensors
    return *spectral_last_backward(like, ctx.steps, spectrum, slope, final.contiguous(), reset), None, None


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


def _refuse(ctx, *cotangents):
    raise UsageError("spectral_scan has no second derivative here: use implementation='reference'")


spectral_frames.register_autograd(_frames_gradient, setup_context=_save_frames)
spectral_last.register_autograd(_last_gradient, setup_context=_save_last)
spectral_frequencies.register_autograd(_frequencies_gradient, setup_context=_save_frequencies)
for _operator in (spectral_frames_backward, spectral_last_backward, spectral_frequencies_backward):
    _operator.register_autograd(_refuse)
