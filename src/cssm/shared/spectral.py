"""What both faces of the spectral recurrence share: checks of shapes, and the tables of the transforms, in NumPy."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Complex, Float, Grid

from .fft_shapes import DTYPES
from .reset import check_reset

READOUTS = ("all", "last", "mean")
SCAN, TO_SPECTRUM, TO_SPACE, LIFTED, LIFTED_ADJOINT, CELLS, CELLS_BACK = range(7)  # the compiled kernels
NUMBERS = 14  # that a kernel is told: its own, that of its tasks, and others
FRAMES, NOTHING, CONSTANT = range(3)  # what comes into their scan: x, no input, one spectrum at every frame
SLOPES, PRODUCTS, MEAN = 1, 2, 4  # what else it makes: P = dS/dK, or the gradient of K; for the mean of the frames
ORIGINS = ("center", "corner")


def check_spectral(x: Any, spectrum: Any, state: Any, reset: Any, axes: str, channels: int | None = None) -> tuple:
    """Refuse what is not x in those axes, real, spectrum (C, H, Wf), complex, state (B, C, H, Wf) and reset (B, T).

    Args: x, spectrum: anything with `shape` and `dtype`; state, reset: such, or None. axes: "b t h w c" or "b h w c".
      channels: C, where x has others.
    Returns: the shape of the state. Raises: ShapeError.

    >>> check_spectral(np.zeros((2, 3, 4, 5, 6)), np.zeros((6, 4, 3), complex), None, None, "b t h w c")
    (2, 6, 4, 3)
    """
    shape = tuple(x.shape)
    if len(shape) != len(axes.split()):
        raise ShapeError(f"x has shape {shape}, expected {axes.split()}")
    real, compound = (str(array.dtype).removeprefix("torch.") for array in (x, spectrum))
    if real not in DTYPES[:4] or compound not in DTYPES[4:]:
        raise ShapeError(f"x must be real floating and the spectrum complex, got {real} and {compound}")
    if 0 in shape[1:]:
        raise ShapeError(f"x of shape {shape} is empty: give at least one frame, pixel and channel")
    *lead, height, width, own = shape
    half = (own if channels is None else channels, height, width // 2 + 1)
    for name, array, expected, legend in (
        ("spectrum", spectrum, half, "(C, H, W // 2 + 1)"),
        ("state", state, (lead[0], *half), "(B, C, H, W // 2 + 1)"),
    ):
        if array is not None and tuple(array.shape) != expected:
            raise ShapeError(f"{name} has shape {tuple(array.shape)}, expected {expected} {legend} for x {shape}")
    check_reset("the spectral recurrence", reset, lead)
    return lead[0], *half


def check_lift(lift: Any, x: Sequence[int], spectrum: Sequence[int]) -> None:
    """A ShapeError unless lift is None or (R, C), R channels of x and C of the spectrum.

    >>> check_lift(np.zeros((2, 6)), (1, 3, 4, 4, 2), (6, 4, 3))
    """
    if lift is not None and tuple(lift.shape) != (x[-1], spectrum[0]):
        raise ShapeError(f"lift has shape {tuple(lift.shape)}, expected {(x[-1], spectrum[0])} (R, C)")


def transform_tables(taps: Sequence[int], grid: Grid, origin: str) -> tuple[Complex[Any, "h k"], Complex[Any, "wf l"]]:
    """rows (H, Kh) and columns (Wf, Kw) of exp(-2 pi i u (tap - origin) / size), exact to float64 for any tap.

    The spectrum of a kernel k (..., Kh, Kw) is rows k columns^T.
    Raises: UsageError: an unknown origin. ShapeError: a kernel without two spatial axes, an empty grid, or origin
      "corner" for a kernel larger than the grid: the reference code crops that one, a fold would be another kernel.

    >>> [table.shape for table in transform_tables((3, 5), (8, 6), "center")]
    [(8, 3), (4, 5)]
    """
    if origin not in ORIGINS:
        raise UsageError(f"unknown kernel origin {origin!r}: use {' or '.join(ORIGINS)}")
    if len(taps) < 2 or len(grid) != 2 or not all(isinstance(n, Integral) and n >= 1 for n in grid):
        raise ShapeError(
            f"kernel_spectrum: got a kernel of shape {tuple(taps)} and a grid {grid}; expected (..., K, K), (H, W)"
        )
    height, width = grid
    if origin == "corner" and (taps[-2] > height or taps[-1] > width):
        raise ShapeError(
            f"the kernel of {taps[-2]} x {taps[-1]} taps is larger than the grid of {height} x {width} pixels, where "
            'the kernel origin "corner" has no meaning (the reference code crops): use "center", or at most '
            f"{min(height, width)} taps"
        )
    return _fourier(height, height, taps[-2], origin), _fourier(width, width // 2 + 1, taps[-1], origin)


def _fourier(size: int, frequencies: int, taps: int, origin: str) -> np.ndarray:
    # "corner" is the reference code's centred padding: tap i lands on pixel (size - taps) // 2 + i
    position = np.arange(taps) - taps // 2 if origin == "center" else np.arange(taps) + (size - taps) // 2
    return np.exp(-2j * np.pi * (np.outer(np.arange(frequencies), position) % size) / size)


def column_weights(height: int, width: int) -> Float[Any, "wf"]:
    """m / (H W), with m = 2 for the columns that stand for two, 1 for the self-conjugate ones.

    The cotangent of irfft2 is m / (H W) conj(rfft2(g)); the other half of the spectrum is folded into these columns.

    >>> (4 * column_weights(1, 4)).tolist()
    [1.0, 2.0, 1.0]
    """
    columns = np.full(width // 2 + 1, 2.0)
    columns[0] = 1.0
    if width % 2 == 0:
        columns[-1] = 1.0
    return columns / (height * width)
