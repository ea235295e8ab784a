"""Powers of a spectrum for frames at irregular times: which compose, which field they leave, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cssm.core.errors import UsageError
from cssm.nn import create_mixer
from cssm.ops import kernel_spectrum, spectral_scan, stable_spectrum
from cssm.ops.spectral import check_dt, spectral_power, to_space, to_spectrum
from tolerances import assert_close

GRIDS = [(6, 8), (5, 7), (1, 4), (4, 1)]


def spectrum(grid, symmetric=False):
    kernel = jax.random.normal(jax.random.key(1), (3, 5, 5))
    return stable_spectrum(kernel_spectrum(kernel + kernel[:, ::-1, ::-1] if symmetric else kernel, grid))


def full_spectrum(half, width):
    """The (C, H, W) spectrum whose left half is given, bins that stand for themselves as they are."""
    rest = half[:, -np.arange(half.shape[1]) % half.shape[1], 1 : (width + 1) // 2][..., ::-1].conj()
    return np.concatenate([half, rest], -1)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_field_stays_real_and_powers_equal_numpy(grid, symmetric):
    K, dt = spectrum(grid, symmetric), jnp.array([0.5, 1.3])
    power = jax.jit(spectral_power, static_argnums=2)(K, dt, grid[1])
    for row, n in enumerate(dt.tolist()):
        field = np.fft.ifft2(full_spectrum(np.asarray(power[row], np.complex128), grid[1]))
        assert np.abs(field.imag).max() < 1e-6 * np.abs(field).max()
        expected = np.asarray(K, np.complex128) ** n
        inside = expected[..., 1 : (grid[1] + 1) // 2]  # columns whose conjugates are not stored
        np.testing.assert_allclose(power[row][..., 1 : (grid[1] + 1) // 2], inside, atol=2e-6)
        own = np.asarray(K[:, 0, 0], np.complex128).real
        np.testing.assert_allclose(power[row, :, 0, 0], ((own + 0j) ** n).real, atol=2e-6)


def test_half_steps_compose_except_at_negative_real_gains():
    K = spectrum((6, 8))
    half, whole = spectral_power(K, jnp.array([0.5, 1.0]), 8)
    negative = np.zeros(K.shape, bool)
    negative[:, ::3, ::4] = np.asarray(K[:, ::3, ::4].real) < 0  # the four bins that are real
    assert negative.any()
    np.testing.assert_allclose((half * half)[~negative], K[~negative], atol=2e-6)
    np.testing.assert_allclose(half[negative], 0, atol=2e-3)  # cos(pi / 2), the root of a rounded pi
    np.testing.assert_allclose(whole, K, atol=1e-6)


def test_a_negative_gain_turns_by_the_cosine():
    for n in (0.25, 1.0, 2.0, 3.5):
        power = spectral_power(jnp.full((1, 4, 3), -0.5 + 0j), jnp.array([n]), 4)
        np.testing.assert_allclose(power[0, 0, :, ::2], 0.5**n * np.cos(np.pi * n), atol=1e-6)


@pytest.mark.parametrize("small", [0.0, 1e-38, 1e-20, 1e-6])
@pytest.mark.parametrize("n", [0.01, 0.5, 1.0, 3.0])
def test_gradients_are_finite_for_vanishing_gains(small, n):
    def total(re, im, dt):
        return jnp.abs(spectral_power(lax_complex(re, im), dt, 4) + 1).sum()

    lax_complex = jax.lax.complex
    gain = jnp.full((1, 4, 3), small)
    value, slopes = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(gain, gain, jnp.array([n]))
    assert bool(jnp.isfinite(value)) and all(bool(jnp.isfinite(g).all()) for g in slopes)
    if small == 0:
        np.testing.assert_allclose(value, 12.0)  # 0^dt = 0


@pytest.mark.parametrize("readout", [*(pytest.param(r, marks=pytest.mark.slow) for r in ("all", "last")), "mean"])
def test_gradients_agree_with_finite_differences(x64, readout):
    from jax.test_util import check_grads

    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 3))
    K, dt = spectrum((4, 4)).astype(complex), jnp.array([[0.5, 1.2, 2.0], [1.0, 0.1, 3.0]])
    reset = jnp.zeros((2, 3), bool).at[0, 1].set(True)
    run = lambda x, dt, re, im: spectral_scan(x, jax.lax.complex(re, im), dt=dt, reset=reset, readout=readout)[1]  # noqa: E731
    check_grads(jax.jit(run), (x, dt, K.real, K.imag), order=1, modes=["rev"], rtol=1e-5)


def test_the_result_equals_numpy_in_float64(x64):
    x, K = np.random.default_rng(0).normal(size=(1, 4, 6, 5, 3)), spectrum((6, 5)).astype(complex)
    dt, state = [0.7, 1.0, 2.0, 1.4], np.zeros((3, 6, 3), complex)
    powers = np.asarray(spectral_power(K, jnp.array(dt), 5))
    for t in range(4):
        state = powers[t] * state + np.fft.rfft2(np.moveaxis(x[0, t], -1, 0))
    final, y = spectral_scan(jnp.asarray(x), K, dt=jnp.array([dt]), readout="last")
    np.testing.assert_allclose(final[0], state, atol=1e-10)
    np.testing.assert_allclose(y[0], np.moveaxis(np.fft.irfft2(state, s=(6, 5)), 0, -1), atol=1e-10)
    np.testing.assert_allclose(to_spectrum(to_space(final, 5)), final, atol=1e-10)  # a real field's spectrum


def test_lifted_input_and_dt_go_together():
    x, lift = jax.random.normal(jax.random.key(0), (1, 3, 4, 5, 2)), jax.random.normal(jax.random.key(1), (2, 3))
    K, dt = spectrum((4, 5)), jnp.array([[1.0, 2.0, 0.5]])
    assert_close(spectral_scan(x, K, lift=lift, dt=dt), spectral_scan(x @ lift, K, dt=dt))


def test_bad_dt_is_refused_or_poisons():
    x, K = jnp.ones((1, 2, 4, 4, 3)), spectrum((4, 4))
    with pytest.raises(UsageError, match="implementation of its own"):
        spectral_scan(x, K, dt=jnp.ones((1, 2)), implementation="stream")
    mixer = create_mixer("standard", channels=3, numerics="goom", rngs=nnx.Rngs(0))
    for call in (
        lambda s: mixer.scan(s, x, dt=jnp.full((1, 2), 2.0)),
        lambda s: mixer.step(s, x[:, 0], dt=jnp.full((1,), 2.0)),
    ):
        with pytest.raises(UsageError, match="numerics='direct'"):
            call(mixer.init_state(1, (4, 4)))
    assert bool(jnp.isnan(jax.jit(check_dt, static_argnums=1)(jnp.array([-1.0]), (1,))).all())
