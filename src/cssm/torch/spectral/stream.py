"""The spectral recurrence in plain PyTorch: frame by frame with its own gradient, whole clip at once, and written out.

Notation of the README of ops/spectral; PyTorch's cotangent of a complex number is dL/dRe + i dL/dIm.
"""

import torch
from torch import Tensor

from cssm.core.errors import UsageError
from cssm.core.typing import Complex, Float, HalfSpectrum, Reset, SpectralState, Video
from cssm.shared.spectral import column_weights


def to_spectrum(x: Float[Tensor, "*lead h w c"]) -> Complex[Tensor, "*lead c h wf"]:
    """rfft2 over height and width, channels moved to the front: "... h w c" -> "... c h wf"."""
    x = (x if x.dtype in (torch.float32, torch.float64) else x.float()).movedim(-1, -3)
    if 0 in x.shape:  # MKL refuses an empty batch
        return x[..., : x.shape[-1] // 2 + 1] + 0j
    return torch.fft.rfft2(x)


def to_space(spectrum: Complex[Tensor, "*lead c h wf"], width: int) -> Float[Tensor, "*lead h w c"]:
    """Inverse of `to_spectrum`: "... c h wf" -> "... h w c"."""
    if 0 in spectrum.shape:
        return torch.nn.functional.pad(spectrum.real, (0, width - spectrum.shape[-1])).movedim(-3, -1)
    return torch.fft.irfft2(spectrum, s=(spectrum.shape[-2], width)).movedim(-3, -1)


def adjoint_weight(height: int, width: int, like: Complex[Tensor, "..."]) -> Float[Tensor, "wf"]:
    """(Wf,), real: see `cssm.shared.spectral.column_weights`."""
    return torch.as_tensor(column_weights(height, width), dtype=like.real.dtype, device=like.device)


def _forget(reset, t, value):
    """value, or 0 in the batch rows that restart at frame t."""
    return value if reset is None else torch.where(reset[:, t, None, None, None], 0, value)


def _advance(reset, t, spectrum, state, frame):
    return torch.addcmul(frame, spectrum, state) if reset is None else _forget(reset, t, spectrum * state) + frame


def reference(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str,
) -> tuple[SpectralState, Float[Tensor, "b *t h w c"]]:  # fmt: skip
    """S_t = K S_{t-1} + x_t per frequency, y_t = irfft2(S_t); plain autograd, differentiable any number of times."""
    shown = []
    for t in range(x.shape[1]):
        state = _forget(reset, t, spectrum * state) + to_spectrum(x[:, t])
        shown.append(to_space(state, x.shape[3]))
    y = torch.stack(shown, 1).to(x.dtype)
    return state, {"all": lambda: y, "last": lambda: y[:, -1], "mean": lambda: y.mean(1)}[readout]()


def parallel(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str,
) -> tuple[SpectralState, Float[Tensor, "b *t h w c"]]:  # fmt: skip
    """One batched FFT, log2 T passes in which every state takes in the state `span` frames before, one inverse FFT."""
    steps, width = x.shape[1], x.shape[3]
    frames = to_spectrum(x)
    states = torch.cat([_advance(reset, 0, spectrum, state, frames[:, 0])[:, None], frames[:, 1:]], 1)
    alive = None if reset is None else ~reset  # no restart in the span up to and with this frame
    power, span = spectrum, 1
    while span < steps:
        taken = power * states[:, :-span]
        if alive is not None:
            taken = torch.where(alive[:, span:, None, None, None], taken, 0)
            alive = torch.cat([alive[:, :span], alive[:, span:] & alive[:, :-span]], 1)
        states = torch.cat([states[:, :span], states[:, span:] + taken], 1)
        power, span = power * power, 2 * span
    shown = {"all": lambda: states, "last": lambda: states[:, -1], "mean": lambda: states.mean(1)}[readout]()
    return states[:, -1], to_space(shown, width).to(x.dtype)


def stream(
    x: Video, spectrum: HalfSpectrum, state: SpectralState, reset: Reset | None, readout: str,
) -> tuple[SpectralState, Float[Tensor, "b *t h w c"]]:  # fmt: skip
    """Frame by frame; the gradient of all frames keeps the states, that of last and mean two or four of them."""
    return (_Frames if readout == "all" else _Reduced).apply(x, spectrum, state, reset, readout)


class _Frames(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, spectrum, state, reset, readout):
        y, before = torch.empty_like(x), []
        keep = any(ctx.needs_input_grad)
        for t in range(x.shape[1]):
            if keep:
                before.append(state)
            state = _advance(reset, t, spectrum, state, to_spectrum(x[:, t]))
            y[:, t] = to_space(state, x.shape[3])
        ctx.save_for_backward(spectrum, reset, *before)
        ctx.width, ctx.dtype = x.shape[3], x.dtype
        return state, y

    @staticmethod
    def backward(ctx, after, g):
        spectrum, reset, *before = ctx.saved_tensors
        return *_FramesGradient.apply(spectrum, reset, ctx.width, ctx.dtype, after, g, *before), None, None


class _FramesGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, spectrum, reset, width, dtype, after, g, *before):
        weight = adjoint_weight(spectrum.shape[-2], width, spectrum)
        gain, dspectrum = spectrum.conj().resolve_conj(), torch.zeros_like(spectrum)
        carried, dx = after / weight, torch.empty_like(g, dtype=dtype)
        for t in reversed(range(len(before))):
            s = carried + to_spectrum(g[:, t])
            dx[:, t] = to_space(s, width)
            s = _forget(reset, t, s)
            dspectrum += (s * before[t].conj()).sum(0)
            carried = gain * s
        return dx, dspectrum * weight, carried * weight

    @staticmethod
    def backward(ctx, *cotangents):
        raise UsageError("spectral_scan has no second derivative here: use implementation='reference'")


class _Reduced(torch.autograd.Function):
    """Last or mean. Carries P_t = dS_t/dK = K P_{t-1} + S_{t-1} along, so that no history is kept."""

    @staticmethod
    def forward(ctx, x, spectrum, state, reset, readout):
        steps, width = x.shape[1], x.shape[3]
        slope = torch.zeros_like(state) if ctx.needs_input_grad[1] else None
        totals = [torch.zeros_like(state), torch.zeros_like(state)] if readout == "mean" else None
        for t in range(steps):
            if slope is not None:
                slope = _forget(reset, t, torch.addcmul(state, spectrum, slope))
            state = _advance(reset, t, spectrum, state, to_spectrum(x[:, t]))
            if totals is not None:
                totals[0] += state
                totals[1] += 0 if slope is None else slope
        ctx.save_for_backward(spectrum, reset, slope, None if totals is None else totals[1])
        ctx.like = steps, width, x.dtype
        return state, to_space(state if totals is None else totals[0] / steps, width).to(x.dtype)

    @staticmethod
    def backward(ctx, after, g):
        return *_ReducedGradient.apply(*ctx.saved_tensors, ctx.like, after, g), None, None


class _ReducedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, spectrum, reset, slope, slope_total, like, after, g):
        steps, width, dtype = like
        weight = adjoint_weight(spectrum.shape[-2], width, spectrum)
        gain, carried, g = spectrum.conj().resolve_conj(), after / weight, to_spectrum(g)
        g, carried = (g / steps, carried) if slope_total is not None else (None, carried + g)
        dspectrum = None
        if slope is not None:
            through = carried * slope.conj()
            through = through if slope_total is None else through + g * slope_total.conj()
            dspectrum = through.sum(0) * weight
        dx = torch.empty((after.shape[0], steps, spectrum.shape[-2], width, spectrum.shape[0]), dtype=dtype)
        dx = dx.to(after.device)
        for t in reversed(range(steps)):
            s = carried if g is None else carried + g
            dx[:, t] = to_space(s, width)
            carried = _forget(reset, t, gain * s)
        return dx, dspectrum, carried * weight

    @staticmethod
    def backward(ctx, *cotangents):
        raise UsageError("spectral_scan has no second derivative here: use implementation='reference'")
