"""Initial state spaces in NumPy: HiPPO matrices, their normal plus low-rank form, and the diagonal inits of S4D.

All state spaces are real, so eigenvalues come in conjugate pairs; only the n = N / 2 with non-negative imaginary part
are kept, and the output is twice a real part. Sources: Gu et al. 2020 (HiPPO), 2022 (S4; How to train your HiPPO; S4D).
"""

from typing import Any

import numpy as np

from cssm.core.errors import UsageError
from cssm.core.typing import Complex, Float

RealArray = Float[Any, "..."]
ComplexArray = Complex[Any, "..."]

NPLR_INITS = ("legs", "legt", "fourier")
DIAGONAL_INITS = ("lin", "inv", "inv2", "quad", "real")
INITS = NPLR_INITS + DIAGONAL_INITS
UNDAMPED = 1e-4  # LegT and Fourier have imaginary eigenvalues, real part 0: NPLR stores -1e-4, as -exp(.) must be < 0
S4D_DAMPING = 0.5  # without their low-rank term those never decay: S4D takes -1/2, the real part of LegS and Lin


def hippo(measure: str, size: int) -> tuple[RealArray, RealArray, RealArray]:
    """A (N, N), B (N,), P (r, N), real: dx/dt = A x + B u, with A + P^T P normal.

    legs: e^(tA) B are the Legendre polynomials in e^-t, weighted by e^-t (r = 1).
    legt: the Legendre polynomials on the window [0, 1] (r = 2). fourier: the Fourier basis on [0, 1] (r = 1).

    >>> hippo("legs", 2)[2].round(3).tolist()
    [[0.707, 1.225]]
    """
    if measure not in NPLR_INITS:
        raise UsageError(f"unknown HiPPO measure {measure!r}: use {', '.join(NPLR_INITS)}")
    if measure == "fourier":
        return _fourier(size)
    index = np.arange(size)
    scale = np.sqrt(2.0 * index + 1)
    outer, row, column = np.outer(scale, scale), index[:, None], index[None]
    if measure == "legs":
        a = -np.where(row > column, outer, 0) - np.diag(index + 1.0)
        return a, scale, np.sqrt(index + 0.5)[None]
    a = -outer * np.where(row < column, (-1.0) ** (column - row), 1)
    return a, scale, np.stack([scale * (index % 2 == 0), scale * (index % 2 == 1)])


def _fourier(size: int) -> tuple[RealArray, RealArray, RealArray]:
    """Coordinates cos 2 pi k t, sin 2 pi k t in turn, k = 0, 1, ...; the constant and the cosines see the input."""
    index = np.arange(size)
    p = np.where(index % 2 == 0, 2.0, 0.0)
    p[0] = np.sqrt(2.0)
    cosines = index[: size - 1 : 2]
    rotation = np.zeros((size, size))
    rotation[cosines + 1, cosines] = np.pi * cosines  # frequency 2 pi k at index 2k
    return rotation - rotation.T - np.outer(p, p), np.sqrt(2.0) * p, p[None]


def nplr(measure: str, d_state: int) -> tuple[ComplexArray, ComplexArray, ComplexArray]:
    """The HiPPO state space in the eigenbasis of its normal part: A = diag(eigenvalues) - P P^*, over conjugate pairs.

    Args:
      measure: legs, legt, fourier. d_state: N, even.

    Returns:
      eigenvalues (N/2,), P (r, N/2), B (N/2,), complex128. Each eigenvector is turned so that its B is real, >= 0.

    >>> nplr("legs", 4)[0].real.round(6).tolist()
    [-0.5, -0.5]
    """
    a, b, p = hippo(measure, d_state)
    normal = a + p.T @ p
    damping = np.diag(normal).mean()
    basis, frequencies = _pairs(normal - damping * np.eye(d_state))
    b = basis.conj().T @ b
    phase = np.where(np.abs(b) > 1e-12, b / np.maximum(np.abs(b), 1e-12), 1)
    return damping + 1j * frequencies, p @ basis.conj() * phase.conj(), b * phase.conj()


def _pairs(skew: RealArray) -> tuple[ComplexArray, RealArray]:
    """V (N, N/2), w (N/2,) >= 0 with [V, conj V] unitary and skew V = i V w, for a real skew-symmetric matrix."""
    values, vectors = np.linalg.eigh(-1j * skew)
    scale = max(np.abs(values).max(), 1.0)
    positive, null = values > 1e-9 * scale, np.abs(values) <= 1e-9 * scale
    kernel = vectors[:, null]
    real = np.linalg.svd(np.concatenate([np.real(kernel), np.imag(kernel)], 1))[0][:, : kernel.shape[1]]
    extra = (real[:, 0::2] + 1j * real[:, 1::2]) / np.sqrt(2)
    frequencies = np.concatenate([np.zeros(extra.shape[1]), values[positive]])
    return np.concatenate([extra, vectors[:, positive]], 1), frequencies


def diagonal(init: str, d_state: int) -> tuple[ComplexArray, ComplexArray]:
    """A (N/2,), B (N/2,), complex128, of a diagonal state space (S4D).

    lin: -1/2 + i pi n. inv: -1/2 + i N/pi (N/(2n+1) - 1). inv2: -1/2 + i N/pi (N/(n+1) - 1).
    quad: -1/2 + i (2n+1)^2 / pi. real: -(n+1). legs, legt, fourier: the normal part of the HiPPO matrix (real part
    -1/2) with its B; else B = 1.

    >>> diagonal("lin", 4)[0].round(3).tolist()
    [(-0.5+0j), (-0.5+3.142j)]
    """
    if init in NPLR_INITS:
        values, _, b = nplr(init, d_state)
        return np.where(values.real < -1e-9, values.real, -S4D_DAMPING) + 1j * values.imag, b
    n, size = np.arange(d_state // 2), d_state
    imaginary = {"lin": np.pi * n, "inv": size / np.pi * (size / (2 * n + 1) - 1)}
    imaginary |= {"inv2": size / np.pi * (size / (n + 1) - 1), "quad": (2 * n + 1) ** 2 / np.pi}
    if init not in DIAGONAL_INITS:
        raise UsageError(f"unknown init {init!r}: use {', '.join(INITS)}")
    real = -(n + 1.0) if init == "real" else np.full(len(n), -0.5)
    return real + 1j * imaginary.get(init, np.zeros(len(n))), np.ones(len(n), complex)


def initial_parameters(kernel: str, init: str, d_state: int) -> dict[str, RealArray]:
    """The part of a head's initial parameters that is not random: log_A_real, A_imag (N/2,), B (N/2, 2), P (r, N/2, 2).

    A = -exp(log_A_real) + i A_imag; the last axis of B and P holds real and imaginary part; P for kernel "s4" alone.
    """
    if kernel == "s4":
        a, p, b = nplr(init, d_state)
        a = np.minimum(a.real, -UNDAMPED) + 1j * a.imag
        return _split(a) | {"B": _real(b), "P": _real(p)}
    a, b = diagonal(init, d_state)
    return _split(a) | {"B": _real(b)}


def _split(a: ComplexArray) -> dict[str, RealArray]:
    return {"log_A_real": np.log(-a.real), "A_imag": a.imag}


def _real(value: ComplexArray) -> RealArray:
    return np.stack([value.real, value.imag], -1)
