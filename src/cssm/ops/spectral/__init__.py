"""The sCSSM recurrence: S_t = K S_{t-1} + x_t per channel and spatial frequency, y_t = irfft2(S_t).

Say what you read (`readout`) and whether the input is static; the cheapest exact path is picked. Maths and costs are
in this folder's README.md.
"""

from numbers import Integral
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Complex, Float, Grid
from cssm.ops.scan.geometric import geometric
from cssm.shared.spectral import READOUTS, check_lift, check_spectral

from ..accelerator import has_jax_triton, one_gpu
from ..given import given
from ..scan import linear_scan
from .clip import clip, fits_in_cache
from .goom import goom
from .irregular import age, check_dt, given_dt, irregular, spectral_power
from .lifted import lifted
from .native import native
from .native_call import why_not_picked
from .parallel import parallel
from .reference import spectral_scan_reference
from .stream import stream
from .transform import adjoint_weight, kernel_spectrum, stable_spectrum, to_space, to_spectrum
from .triton import LARGEST, spectral_triton

IMPLEMENTATIONS = {
    "native": native, "stream": stream, "clip": clip, "parallel": parallel, "triton": spectral_triton, "goom": goom,
    "reference": spectral_scan_reference,
}  # fmt: skip

__all__ = [
    "IMPLEMENTATIONS", "READOUTS", "adjoint_weight", "age", "check_dt", "given_dt", "kernel_spectrum",
    "spectral_explain", "spectral_pooled", "spectral_power", "spectral_scan", "spectral_static", "spectral_zero_state",
    "stable_spectrum", "to_space", "to_spectrum",
]  # fmt: skip


def spectral_scan(
    x: Annotated[ArrayLike, "b t h w c"],
    spectrum: Annotated[ArrayLike, "c h wf"],
    *,
    readout: str = "all",
    state: Annotated[ArrayLike, "b c h wf"] | None = None,
    reset: Annotated[ArrayLike, "b t"] | None = None,
    lift: Annotated[ArrayLike, "r c"] | None = None,
    dt: Annotated[ArrayLike, "b t"] | None = None,
    implementation: str | None = None,
) -> tuple[Complex[Array, "b c h wf"], Float[Array, "b *t h w c"]]:
    """Run the spectral recurrence over a clip.

    Equivalent to::

        for t in range(T):
            S = where(reset[:, t], 0, spectrum * S) + rfft2(x[:, t])
            y[:, t] = irfft2(S)

    Args:
      x: (B, T, H, W, C) real.
      spectrum: (C, H, W // 2 + 1) complex, of a real kernel: see `kernel_spectrum`, `stable_spectrum`.
      readout: "all" (y has x's shape), "last" (the last frame: one inverse FFT, gradient memory independent of T) or
        "mean" (the mean over frames: the same). With `lift` the gradient keeps the R-channel spectra and one state
        per chunk of frames.
      state: (B, C, H, W // 2 + 1) complex, the state before the first frame; zeros when omitted.
      reset: (B, T) bool; True forgets all frames before that one.
      lift: (R, C) real; x then has R channels and stands for x @ lift. Without resets, the last and mean readouts
        transform R channels instead of C and advance whole chunks of frames by one matrix product per frequency.
      dt: (B, T) positive step lengths, for frames at irregular times: K^dt_t S_{t-1} + rfft2(x_t), see irregular.py for
        fractional ones. One implementation, frame by frame. None means 1 everywhere, and costs nothing.
      implementation: None picks the fastest, `spectral_explain` says which and why; or by name, "native" (compiled
        kernel, spectra never leave the cache: picked on a single CPU device from 8 batch rows x channels on), "stream"
        (frame by frame in cache: picked on CPU in other cases), "clip" (one FFT of the whole clip, one pass over time:
        picked in its place for all frames of a clip that fits in cache; last and mean go frame by frame), "parallel"
        (whole clip, log2 T passes: picked on GPU and TPU; with resets, last and mean go frame by frame), "triton"
        (fused kernel, float32 and below, `spectrum` and `state` read as irfft2 reads
        them; above 64 pixels FFT and a scan per frequency; no vmap, and XLA does not split it over devices: picked on a
        single GPU for all frames up to 64 x 64 where jax-triton can be imported), "goom" (on complex logarithms; its
        gradient keeps every state), "reference" (slow, obvious; its gradient keeps every state).

    Returns:
      (state, y): the state after the last frame, complex64 (complex128 for float64 input); y in x's dtype.

    Raises:
      ShapeError: shapes that do not fit together, an integer dtype, or zero frames.
      UsageError: an unknown readout or implementation, or one that cannot run here; a dt that is not positive (under
        jit, where values are not known, such a dt gives nan).

    Source: docs/math.md section 2; 003 Methods, section 1.1.

    >>> import jax.numpy as jnp
    >>> x, K = jnp.ones((1, 3, 4, 4, 2)), jnp.full((2, 4, 3), 0.5 + 0j)
    >>> state, y = spectral_scan(x, K, readout="last")
    >>> round(float(y[0, 0, 0, 0]), 4)  # 1 + 1/2 + 1/4
    1.75
    """
    x, spectrum, lift, reset = jnp.asarray(x), jnp.asarray(spectrum), given(lift), given(reset)
    check_lift(lift, x.shape, spectrum.shape)
    before = _start(x, spectrum, given(state), reset, "b t h w c", None if lift is None else lift.shape[1])
    spectrum = spectrum.astype(before.dtype)
    if readout not in READOUTS:
        raise UsageError(f"unknown readout {readout!r}: use {', '.join(READOUTS)}")
    if dt is not None and implementation is not None:
        raise UsageError(f"dt has an implementation of its own, not {implementation!r}: leave one of them out")
    spans = given_dt(dt, x.shape[:2], before.real.dtype)
    if spans is not None:
        return irregular(x if lift is None else x @ lift, spectrum, before, reset, readout, spans)
    if lift is not None and implementation is None and readout != "all" and reset is None:
        return lifted(x, lift, spectrum, before, readout)
    x = x if lift is None else x @ lift
    if implementation is None:
        implementation = _pick(x, readout, before)[0]
    if implementation not in IMPLEMENTATIONS:
        raise UsageError(
            f"unknown implementation {implementation!r} of spectral_scan: use {', '.join(IMPLEMENTATIONS)}"
        )
    return IMPLEMENTATIONS[implementation](x, spectrum, before, reset, readout)


def spectral_explain(x: Annotated[ArrayLike, "b t h w c"], readout: str = "all") -> str:
    """Which implementation `spectral_scan` picks for this clip here, and why.

    >>> import jax.numpy as jnp
    >>> spectral_explain(jnp.ones((1, 3, 4, 131, 2)))
    'clip: not the compiled kernel, the width 131 has a prime factor above 127'
    """
    x = jnp.asarray(x)
    shape = (x.shape[0], x.shape[4], x.shape[2], x.shape[3] // 2 + 1)
    return ": ".join(_pick(x, readout, jax.ShapeDtypeStruct(shape, jnp.result_type(x.dtype, jnp.complex64))))


def _pick(x, readout, state) -> tuple[str, str]:
    """The fastest implementation measured on this kind of device, and why it is that one."""
    if jax.default_backend() != "cpu":
        fits = readout == "all" and max(x.shape[2:4]) <= LARGEST and state.dtype == jnp.complex64
        if fits and one_gpu() and has_jax_triton():
            return "triton", "a single GPU, all frames, up to 64 x 64 pixels in float32 and below"
        return "parallel", f"the device is {jax.default_backend()}, and the fused kernel does not fit or is not there"
    reason = why_not_picked(x.shape[2], x.shape[3], x.shape[0] * x.shape[4], state.dtype)
    if reason is None:
        return "native", "a CPU: the spectra never leave the cache"
    return "clip" if readout == "all" and fits_in_cache(x, state) else "stream", f"not the compiled kernel, {reason}"


def spectral_static(
    x: Annotated[ArrayLike, "b h w c"],
    spectrum: Annotated[ArrayLike, "c h wf"],
    steps: int,
    *,
    state: Annotated[ArrayLike, "b c h wf"] | None = None,
    readout: str = "last",
) -> tuple[Complex[Array, "b c h wf"], Float[Array, "b h w c"]]:
    """`spectral_scan` of one frame repeated `steps` times, for the cost of one frame and log2(steps) kernel products.

    S_T = G_T x + K^T S_0 with G_T = (1 - K^T) / (1 - K), computed by doubling (no division).

    Args:
      x: (B, H, W, C) real. spectrum, state: as in `spectral_scan`.
      steps: number of repeats, at least 1.
      readout: "last" or "mean" over the repeats.

    Returns:
      (state, y): the state after `steps` frames; y (B, H, W, C).

    Raises:
      ShapeError: shapes that do not fit, or steps < 1. UsageError: another readout.

    Source: docs/math.md section 2.

    >>> import jax.numpy as jnp
    >>> state, y = spectral_static(jnp.ones((1, 4, 4, 2)), jnp.full((2, 4, 3), 0.5 + 0j), 3)
    >>> round(float(y[0, 0, 0, 0]), 4)
    1.75
    """
    x, spectrum = jnp.asarray(x), jnp.asarray(spectrum)
    before = _start(x, spectrum, given(state), None, "b h w c")
    if not isinstance(steps, Integral) or not 1 <= steps < 2**31:
        raise ShapeError(f"spectral_static: steps is {steps!r}, expected an integer of at least 1 and below 2**31")
    if readout not in ("last", "mean"):
        raise UsageError(f"unknown readout {readout!r} of spectral_static: use last or mean")
    spectrum = spectrum.astype(before.dtype)
    power, total, cumulative = geometric(spectrum, steps)
    frame = to_spectrum(x)
    final = total * frame + power * before
    shown = final if readout == "last" else (cumulative * frame + spectrum * total * before) / steps
    return final, to_space(shown, x.shape[2]).astype(x.dtype)


def spectral_pooled(
    x: Annotated[ArrayLike, "b t h w c"],
    spectrum: Annotated[ArrayLike, "c h wf"],
    *,
    readout: str = "all",
    state: Annotated[ArrayLike, "b c h wf"] | None = None,
    reset: Annotated[ArrayLike, "b t"] | None = None,
) -> Float[Array, "b *t c"]:
    """The spatial mean of `spectral_scan`'s y, from the DC bin alone: no FFT, and a kernel of one number per channel.

    Args: as `spectral_scan`. Returns: (B, T, C) for readout "all", (B, C) for "last" and "mean". Raises: likewise.

    >>> import jax.numpy as jnp
    >>> spectral_pooled(jnp.ones((1, 3, 4, 4, 2)), jnp.full((2, 4, 3), 0.5 + 0j), readout="last").tolist()
    [[1.75, 1.75]]
    """
    x, spectrum, reset = jnp.asarray(x), jnp.asarray(spectrum), given(reset)
    before = _start(x, spectrum, given(state), reset, "b t h w c")
    if readout not in READOUTS:
        raise UsageError(f"unknown readout {readout!r}: use {', '.join(READOUTS)}")
    pixels, real = x.shape[2] * x.shape[3], jnp.finfo(before.dtype).dtype
    dc, start = spectrum[:, 0, 0].real.astype(real), before[..., 0, 0].real / pixels
    y = linear_scan(dc, x.astype(real).mean((2, 3)), start, reset=reset)
    return {"all": y, "last": y[:, -1], "mean": y.mean(1)}[readout].astype(x.dtype)


def spectral_zero_state(
    batch: int, channels: int, grid: Grid, dtype: Any = jnp.complex64
) -> Complex[Array, "b c h wf"]:
    """(B, C, H, W // 2 + 1) zeros: no past."""
    return jnp.zeros((batch, channels, grid[0], grid[1] // 2 + 1), dtype)


def _start(x, spectrum, state, reset, axes, channels=None) -> Array:
    """The state to start from, or a ShapeError that says what does not fit."""
    shape = check_spectral(x, spectrum, state, reset, axes, channels)
    dtype = jnp.result_type(x.dtype, spectrum.dtype, jnp.complex64)
    return jnp.zeros(shape, dtype) if state is None else state.astype(dtype)
