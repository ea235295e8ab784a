import numpy as np
import pytest
from numpy.polynomial import legendre
from scipy.linalg import expm

from cssm.core.errors import UsageError
from cssm.shared.hippo import INITS, NPLR_INITS, diagonal, hippo, initial_parameters, nplr
from cssm.shared.s4_options import KernelOptions, LayerOptions, blocks, check_rate, kernel_options

TIMES = np.array([0.05, 0.3, 0.62, 0.9])


def responses(measure, size, times):
    a, b, _ = hippo(measure, size)
    return np.stack([expm(t * a) @ b for t in times], 1)


def polynomial(n, x):
    return np.sqrt(2 * n + 1) * legendre.legval(x, [0] * n + [1])


def test_legs_responds_with_legendre_polynomials_in_exponential_time():
    expected = [np.exp(-TIMES) * polynomial(n, 2 * np.exp(-TIMES) - 1) for n in range(8)]
    np.testing.assert_allclose(responses("legs", 8, TIMES), expected, rtol=1e-10, atol=1e-10)


def test_legt_responds_with_legendre_polynomials_on_a_window():
    """Only in the limit of many states; the window ends at 1."""
    inside, after = responses("legt", 64, TIMES)[:3], responses("legt", 64, [1.5])
    np.testing.assert_allclose(inside, [polynomial(n, 1 - 2 * TIMES) for n in range(3)], atol=0.1)
    assert np.abs(after).max() < 1e-3


def test_fourier_responds_with_the_fourier_basis_on_a_window():
    inside, after = responses("fourier", 128, TIMES), responses("fourier", 128, [1.5])
    expected = [np.sqrt(2) * np.cos(2 * np.pi * TIMES), np.sqrt(2) * np.sin(2 * np.pi * TIMES)]
    np.testing.assert_allclose(inside[2:4], expected, atol=0.04)
    assert np.abs(after[:8]).max() < 0.04


@pytest.mark.parametrize("measure", NPLR_INITS)
@pytest.mark.parametrize("size", [2, 4, 10, 64])
def test_nplr_is_the_same_system_in_other_coordinates(measure, size):
    a, b, p = hippo(measure, size)
    values, low_rank, drive = (np.concatenate([v, v.conj()], -1) for v in nplr(measure, size))
    assert values.shape == (size,) and low_rank.shape == p.shape
    transformed = np.diag(values) - low_rank.T @ low_rank.conj()
    for power in range(4):  # a unitary change of coordinates keeps all of these
        ours, theirs = (m @ np.linalg.matrix_power(m - m.conj().T, power) for m in (transformed, a))
        np.testing.assert_allclose(drive.conj() @ ours @ drive, b @ theirs @ b, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(drive[: size // 2].imag, 0, atol=1e-12)


def test_diagonal_inits_are_those_of_the_paper():
    n = np.arange(4)
    formulas = {
        "lin": -0.5 + 1j * np.pi * n,
        "inv": -0.5 + 1j * 8 / np.pi * (8 / (2 * n + 1) - 1),
        "inv2": -0.5 + 1j * 8 / np.pi * (8 / (n + 1) - 1),
        "quad": -0.5 + 1j * (1 + 2 * n) ** 2 / np.pi,
        "real": -(n + 1),
    }
    for name, expected in formulas.items():
        a, b = diagonal(name, 8)
        np.testing.assert_allclose(a, expected)
        assert (b == 1).all()
    for name in NPLR_INITS:
        np.testing.assert_allclose(diagonal(name, 8)[0].real, -0.5)
        np.testing.assert_allclose(diagonal(name, 8)[0].imag, nplr(name, 8)[0].imag)


@pytest.mark.parametrize("init", INITS)
def test_initial_parameters_give_the_eigenvalues_back(init):
    held = initial_parameters("s4d", init, 8)
    np.testing.assert_allclose(-np.exp(held["log_A_real"]) + 1j * held["A_imag"], diagonal(init, 8)[0])
    if init in NPLR_INITS:
        held = initial_parameters("s4", init, 8)
        np.testing.assert_allclose(-np.exp(held["log_A_real"]) + 1j * held["A_imag"], nplr(init, 8)[0], atol=1.1e-4)
        np.testing.assert_allclose(held["P"][..., 0] + 1j * held["P"][..., 1], nplr(init, 8)[1])


def test_blocks_cover_every_length():
    for length in range(1, 300):
        count, size = blocks(length)
        assert (count - 1) * size < length <= count * size and size & (size - 1) == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: hippo("legz", 4), "legs, legt, fourier"),
        (lambda: diagonal("linn", 4), "unknown init 'linn'"),
        (lambda: KernelOptions(kernel="s5"), "'s5': use s4 or s4d"),
        (lambda: KernelOptions(kernel="s4", init="lin"), "no low-rank form"),
        (lambda: KernelOptions(kernel="s4d", init="hippo"), "unknown S4 init 'hippo'"),
        (lambda: KernelOptions(kernel="s4d", disc="euler"), "zoh or bilinear"),
        (lambda: KernelOptions(kernel="s4", disc="zoh"), "by 'bilinear' alone"),
        (lambda: KernelOptions(kernel="s4", implementation="fft"), "krylov or cauchy"),
        (lambda: KernelOptions(kernel="s4d", implementation="cauchy"), "one implementation"),
        (lambda: KernelOptions(kernel="s4d", d_state=5), "even number"),
        (lambda: KernelOptions(kernel="s4d", dt_min=0.1, dt_max=0.01), "dt_min <= dt_max"),
        (lambda: kernel_options("s4d", {"lr": 1e-3}), "cannot honour lr; it takes d_state"),
        (lambda: LayerOptions(d_model=0), "d_model is 0"),
        (lambda: LayerOptions(d_model=4, dropout=1.0), "probability"),
        (lambda: LayerOptions(d_model=4, tie_dropout=True), "nothing to tie"),
        (lambda: LayerOptions(d_model=4, l_max=0), "l_max is 0"),
        (lambda: check_rate(0.0), "positive number"),
    ],
)
def test_bad_options_are_named(call, says):
    with pytest.raises(UsageError, match=says):
        call()
