"""The sCSSM recurrence for PyTorch: the names, shapes and numbers of `cssm.ops.spectral`; its README has the maths."""

from numbers import Integral
from typing import Annotated, Any

import torch
from torch import Tensor

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Complex, Float, Grid
from cssm.shared.radix_plan import sparse
from cssm.shared.spectral import READOUTS, check_lift, check_spectral, transform_tables

from ..devices import one_device
from ..tensors import check_tensors
from ..transforms import transformed
from .native import native, why_not
from .stream import parallel, reference, stream, to_space, to_spectrum


def spectral_scan(
    x: Annotated[Tensor, "b t h w c"],
    spectrum: Annotated[Tensor, "c h wf"],
    *,
    readout: str = "all",
    state: Annotated[Tensor, "b c h wf"] | None = None,
    reset: Annotated[Tensor, "b t"] | None = None,
    lift: Annotated[Tensor, "r c"] | None = None,
    implementation: str | None = None,
) -> tuple[Complex[Tensor, "b c h wf"], Float[Tensor, "b *t h w c"]]:
    """S_t = K S_{t-1} + rfft2(x_t), y_t = irfft2(S_t), over a clip; as `cssm.ops.spectral_scan`.

    Args:
      x: (B, T, H, W, C) real. spectrum: (C, H, W // 2 + 1) complex, of a real kernel (`kernel_spectrum`).
      readout: "all" (y has x's shape), "last" or "mean" (y (B, H, W, C)).
      state: (B, C, H, W // 2 + 1) complex before the first frame, of a real frame; zeros when omitted.
      reset: (B, T) bool; True forgets all frames before that one.
      lift: (R, C) real; x then has R channels and stands for x @ lift.
      implementation: "triton" (fused kernel up to 64 x 64, above it FFT and a scan per frequency: picked on CUDA in
        float32 and below; reads spectrum and state as irfft2 does, the symmetric part of self-conjugate columns),
        "native" (compiled kernel, spectra never leave the cache: picked on CPU), "stream" (frame by frame: picked on
        CPU for grids with a prime factor above 127), "parallel" (whole clip, log2 T passes: picked for float64 on CUDA
        or without triton, and under torch.func), "reference" (slow, obvious, differentiable twice), or None to pick.

    Returns:
      (state, y): the state after the last frame, complex64 (complex128 for float64 input); y in x's dtype.

    Raises:
      ShapeError: shapes that do not fit together, an integer dtype, a reset that is not bool, zero frames.
      UsageError: an unknown readout or implementation, one that cannot run here, tensors on several devices, or a
        second derivative.

    Source: docs/math.md section 2.

    >>> import torch
    >>> x, K = torch.ones(1, 3, 4, 4, 2), torch.full((2, 4, 3), 0.5 + 0j)
    >>> state, y = spectral_scan(x, K, readout="last")
    >>> round(float(y[0, 0, 0, 0]), 4)  # 1 + 1/2 + 1/4
    1.75
    """
    check_tensors("spectral_scan", x, spectrum, state, reset, lift)
    check_lift(lift, x.shape, spectrum.shape)
    x = x if lift is None else x @ lift
    state = _start(x, spectrum, state, reset, "b t h w c")
    if readout not in READOUTS:
        raise UsageError(f"unknown readout {readout!r}: use {', '.join(READOUTS)}")
    if implementation is None:
        implementation = "parallel" if transformed() else _pick(x, state)
    if implementation not in IMPLEMENTATIONS:
        raise UsageError(
            f"unknown implementation {implementation!r} of spectral_scan: use {', '.join(IMPLEMENTATIONS)}"
        )
    if implementation in ("native", "stream", "triton") and transformed():
        raise UsageError(
            f"implementation={implementation!r} of spectral_scan has no rules for torch.func (vmap, forward-mode jvp): "
            "leave it out"
        )
    run = IMPLEMENTATIONS[implementation] if x.shape[0] else reference  # kernels and FFT libraries refuse empty batches
    return run(x, spectrum.to(state.dtype), state, reset, readout)


def spectral_static(
    x: Annotated[Tensor, "b h w c"],
    spectrum: Annotated[Tensor, "c h wf"],
    steps: int,
    *,
    state: Annotated[Tensor, "b c h wf"] | None = None,
    readout: str = "last",
) -> tuple[Complex[Tensor, "b c h wf"], Float[Tensor, "b h w c"]]:
    """`spectral_scan` of one frame repeated `steps` times, in closed form; as `cssm.ops.spectral_static`.

    Args:
      x: (B, H, W, C) real. spectrum, state: as in `spectral_scan`.
      steps: number of repeats, at least 1.
      readout: "last" or "mean" over the repeats.

    Returns:
      (state, y): the state after `steps` frames; y (B, H, W, C).

    Raises:
      ShapeError: shapes that do not fit, or steps < 1. UsageError: another readout.

    >>> import torch
    >>> state, y = spectral_static(torch.ones(1, 4, 4, 2), torch.full((2, 4, 3), 0.5 + 0j), 3)
    >>> round(float(y[0, 0, 0, 0]), 4)
    1.75
    """
    check_tensors("spectral_static", x, spectrum, state)
    state = _start(x, spectrum, state, None, "b h w c")
    if not isinstance(steps, Integral) or not 1 <= steps < 2**31:
        raise ShapeError(f"spectral_static: steps is {steps!r}, expected an integer of at least 1 and below 2**31")
    if readout not in ("last", "mean"):
        raise UsageError(f"unknown readout {readout!r} of spectral_static: use last or mean")
    spectrum = spectrum.to(state.dtype)
    power, total, cumulative = _geometric(spectrum, steps)
    frame = to_spectrum(x)
    final = total * frame + power * state
    shown = final if readout == "last" else (cumulative * frame + spectrum * total * state) / steps
    return final, to_space(shown, x.shape[2]).to(x.dtype)


def kernel_spectrum(k: Float[Any, "*lead kh kw"], grid: Grid, *, origin: str = "center") -> Complex[Any, "*lead h wf"]:
    """Spectrum of a spatial kernel on a periodic grid, origin at tap K // 2; as `cssm.ops.kernel_spectrum`.

    Args: k (..., Kh, Kw) real; grid (H, W); origin "center" or "corner". Returns: (..., H, W // 2 + 1) complex.
    Raises: UsageError for an unknown origin, ShapeError for a kernel without two spatial axes, an empty grid, or origin
      "corner" for a kernel larger than the grid.

    >>> import torch
    >>> k = torch.zeros(3, 3)
    >>> k[1, 1] = 1.0
    >>> kernel_spectrum(k, (4, 4)).real.min().item()
    1.0
    """
    check_tensors("kernel_spectrum", k)
    dtype = torch.complex128 if k.dtype == torch.float64 else torch.complex64
    tables = transform_tables(k.shape, grid, origin)
    rows, columns = (torch.as_tensor(table, dtype=dtype, device=k.device) for table in tables)
    return rows @ k.to(dtype) @ columns.mT


def stable_spectrum(z: Complex[Any, "..."], rho: float = 0.999) -> Complex[Any, "..."]:
    """rho z / (1 + |z|): inside the disc of radius rho, phase kept; as `cssm.ops.stable_spectrum`.

    Raises: UsageError for rho outside (0, 1].

    >>> import torch
    >>> bool(stable_spectrum(torch.tensor(1e6 + 1e6j)).abs() < 0.999)
    True
    """
    check_tensors("stable_spectrum", z)
    if not 0 < rho <= 1:
        raise UsageError(f"stable_spectrum: rho must lie in (0, 1], got {rho}")
    return rho * z / (1 + z.abs())


def _triton(*arguments):
    try:
        from .triton import spectral_triton
    except ImportError as error:
        raise UsageError(
            "implementation='triton' needs Triton: pip install 'cssm[triton]', or use 'parallel'"
        ) from error
    return spectral_triton(*arguments)


IMPLEMENTATIONS = {"native": native, "stream": stream, "parallel": parallel, "reference": reference, "triton": _triton}


def _pick(x, state) -> str:
    if not x.is_cuda:
        few = sparse(x.shape[0] * x.shape[4], state.dtype == torch.complex128)
        return "stream" if why_not(x) or few else "native"
    if state.dtype == torch.complex128:
        return "parallel"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "parallel"
    return "triton"


def _geometric(spectrum, steps: int):
    """(K^T, G_T, C_T) with G_T = sum_{t<T} K^t and C_T = sum_{t=1..T} G_t, by doubling: exact also at K = 1."""
    power, total, cumulative = torch.ones_like(spectrum), torch.zeros_like(spectrum), torch.zeros_like(spectrum)
    m = 0
    for bit in bin(steps)[2:]:
        cumulative = cumulative + m * total + power * cumulative
        total, power, m = total * (1 + power), power * power, 2 * m
        if bit == "1":
            total, power, m = 1 + spectrum * total, power * spectrum, m + 1
            cumulative = cumulative + total
    return power, total, cumulative


def _start(x, spectrum, state, reset, axes) -> Tensor:
    """The state to start from, or an error that says what does not fit."""
    shape = check_spectral(x, spectrum, state, reset, axes)
    one_device("spectral_scan", x, spectrum, state, reset)
    dtype = torch.promote_types(torch.promote_types(x.dtype, spectrum.dtype), torch.complex64)
    return x.new_zeros(shape, dtype=dtype) if state is None else state.to(dtype)
