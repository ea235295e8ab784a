"""The strategies of `opt_ssm_forward`: x (B, L, H_in), K (N, taps), B_ (N, H_in), C (H_out, N) -> y (B, L, H_out).

All of one precision; K, B_ and C are either all real or all complex, and complex where x is. n is the transform length.
Each works on blocks of the batch whose spectra stay in cache.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cssm.core.typing import Inexact
from cssm.shared.fft_plan import block_of


def kernel(
    x: Inexact[Tensor, "b t i"], K: Inexact[Tensor, "n l"], B_: Inexact[Tensor, "n i"], C: Inexact[Tensor, "o n"],
    n: int,
) -> Inexact[Tensor, "b t o"]:  # fmt: skip
    """Fold C, K and B_ into one kernel (H_out, H_in) per tap and convolve with it."""
    outer = (C.transpose(0, 1)[:, :, None] * B_[:, None, :]).flatten(1)
    taps = matrix_product(K.transpose(0, 1), outer, real=not x.is_complex()).transpose(0, 1).contiguous()
    forward, inverse = transforms(taps.is_complex(), n)
    spectrum = forward(taps, -1).transpose(0, 1).contiguous().unflatten(1, (C.shape[0], B_.shape[1]))
    product = forward(x.transpose(1, 2).contiguous(), -1).permute(2, 0, 1) @ spectrum.transpose(1, 2)
    return inverse(product.permute(1, 2, 0).contiguous(), -1)[..., : x.shape[1]].transpose(1, 2)


def projection(
    x: Inexact[Tensor, "b t i"], K: Inexact[Tensor, "n l"], B_: Inexact[Tensor, "n i"], C: Inexact[Tensor, "o n"],
    n: int,
) -> Inexact[Tensor, "b t o"]:  # fmt: skip
    """Project to the N states, convolve each with its kernel, project out."""
    forward, inverse = transforms(K.is_complex(), n)
    spectrum, into, out = forward(K, -1), B_.transpose(0, 1), C.transpose(0, 1)

    def convolve(x):
        inputs = matrix_product(x, into).transpose(1, 2).contiguous()
        states = inverse(forward(inputs, -1) * spectrum, -1)[..., : x.shape[1]]
        return matrix_product(states.transpose(1, 2).contiguous(), out, real=not x.is_complex())

    return blocked(convolve, x, K.shape[0], n)


def fallback(
    x: Inexact[Tensor, "b t i"], K: Inexact[Tensor, "n l"], B_: Inexact[Tensor, "n i"], C: Inexact[Tensor, "o n"],
    n: int,
) -> Inexact[Tensor, "b t o"]:  # fmt: skip
    """Project in, multiply and project out at every frequency: only H_in and H_out channels are transformed."""
    forward, inverse = transforms(x.is_complex(), n)
    if K.is_complex() and not x.is_complex():
        gain, B_, C = _with_conjugates(torch.fft.fft(K, n=n), B_, C)
    else:
        gain = forward(K, -1)
    into, out = B_.to(gain.dtype), C.to(gain.dtype)

    def convolve(x):
        inputs = forward(x.transpose(1, 2).contiguous(), -1)
        return inverse(out @ (gain * (into @ inputs)), -1)[..., : x.shape[1]].transpose(1, 2)

    return blocked(convolve, x, gain.shape[0], n)


STRATEGIES = {"kernel": kernel, "projection": projection, "fallback": fallback}


def same_precision(x: Inexact[Tensor, "..."], *parameters: Inexact[Tensor, "..."]) -> tuple[Tensor, ...]:
    """x and the parameters in one precision, at least float32, the parameters all real or all complex.

    Real where x is real and at most one of them complex: then only their real parts reach the real part of y.
    """
    narrow, wide = precision_of(x, *parameters)
    if x.is_complex() or sum(p.is_complex() for p in parameters) > 1:
        parameters = tuple(p.to(wide) for p in parameters)
    else:
        parameters = tuple((p.real if p.is_complex() else p).to(narrow) for p in parameters)
    return x.to(wide if x.is_complex() else narrow), *parameters


def precision_of(*arrays: Inexact[Tensor, "..."]) -> tuple[torch.dtype, torch.dtype]:
    """(real, complex) dtype of the computation: double where an array is."""
    double = any(a.dtype in (torch.float64, torch.complex128) for a in arrays)
    return (torch.float64, torch.complex128) if double else (torch.float32, torch.complex64)


def transforms(is_complex: bool, n: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """(forward, inverse) along an axis: complex, or real to a half spectrum and back."""
    if is_complex:
        return (lambda x, axis: torch.fft.fft(x, n=n, dim=axis)), (lambda x, axis: torch.fft.ifft(x, n=n, dim=axis))
    return (lambda x, axis: torch.fft.rfft(x, n=n, dim=axis)), (lambda x, axis: torch.fft.irfft(x, n=n, dim=axis))


def blocked(
    function: Callable[[Tensor], Tensor], x: Inexact[Tensor, "b ..."], channels: int, n: int
) -> Inexact[Tensor, "b ..."]:
    """function over blocks of the batch."""
    size = block_of(x.shape[0], channels, n)
    return function(x) if size == x.shape[0] else torch.cat([function(part) for part in x.split(size)])


def matrix_product(
    x: Inexact[Tensor, "*lead i"], matrix: Inexact[Tensor, "i o"], real: bool = False
) -> Inexact[Tensor, "*lead o"]:
    """x @ matrix, or its real part where `real`; products of a real side cost real flops."""
    if not matrix.is_complex():
        if not x.is_complex():
            return x @ matrix
        return x.real @ matrix if real else torch.complex(x.real @ matrix, x.imag @ matrix)
    if not x.is_complex():
        if real:
            return x @ matrix.real
        pairs = torch.view_as_real(matrix.resolve_conj()).flatten(-2)
        return torch.view_as_complex((x @ pairs).unflatten(-1, (-1, 2)))
    if not real:
        return x @ matrix
    pairs = torch.view_as_real(matrix.conj().resolve_conj()).transpose(-1, -2).flatten(0, 1)
    return torch.view_as_real(x.resolve_conj()).flatten(-2) @ pairs


def _with_conjugates(spectrum, B_, C):
    """2 N states whose half spectra give the real part for a real input: K, B_, C / 2 and their conjugates."""
    n = spectrum.shape[-1]
    mirrored = spectrum.flip(-1).roll(1, -1).conj()
    gain = torch.cat([spectrum, mirrored])[:, : n // 2 + 1]
    return gain, torch.cat([B_, B_.conj()]), torch.cat([C, C.conj()], 1) / 2
