"""Distributions of initial values, against what the papers say."""

import numpy as np
import pytest
from flax import nnx

from cssm.nn import S4, create_mixer
from cssm.shared.hippo import hippo


def test_the_eigenvalues_of_lru_are_uniform_in_area_on_the_ring():
    """Orvieto et al. 2023, Lemma 3.2: |L|^2 is uniform on r_min^2 .. r_max^2, the phase on 0 .. max_phase."""
    mixer = create_mixer("lru", channels=2, d_state=20_000, r_min=0.2, r_max=0.9, max_phase=2.0, rngs=nnx.Rngs(0))
    eigenvalues = np.asarray(mixer.transition((4, 4)), np.complex128).ravel()
    area = (np.abs(eigenvalues) ** 2 - 0.2**2) / (0.9**2 - 0.2**2)
    for uniform in (area, np.angle(eigenvalues) / 2.0):
        assert uniform.min() >= -1e-4 and uniform.max() <= 1 + 1e-4
        counts = np.histogram(uniform, bins=10, range=(0, 1))[0] / 2000
        np.testing.assert_allclose(counts, 1, atol=0.1)  # five standard deviations of a bin


def assert_log_uniform(log_step, low, high):
    """Gu et al. 2022 (S4), Smith et al. 2023 (S5): dt is log-uniform on dt_min .. dt_max."""
    uniform = (np.asarray(log_step, np.float64).ravel() - np.log(low)) / np.log(high / low)
    assert uniform.min() >= -1e-4 and uniform.max() <= 1 + 1e-4
    expected, n = 1 / 10, uniform.size
    deviation = (expected * (1 - expected) / n) ** 0.5
    np.testing.assert_allclose(np.histogram(uniform, bins=10, range=(0, 1))[0] / n, expected, atol=5 * deviation)


@pytest.mark.parametrize(
    "name", ["s4", "s4d", "s5", "convs5", "s4nd", pytest.param("s4nd_full", marks=pytest.mark.slow)]
)
def test_steps_start_log_uniform(name):
    modes = name in ("s5", "convs5")  # one step a mode; few at a time, for the eigenvectors of HiPPO are dear
    size = {"channels": 2, "d_state": 200} if modes else {"channels": 1000, "d_state": 2}
    mixers = (create_mixer(name, **size, dt_min=0.02, dt_max=0.3, rngs=nnx.Rngs(i)) for i in range(10 if modes else 1))
    assert_log_uniform(np.concatenate([mixer.log_step[...].ravel() for mixer in mixers]), 0.02, 0.3)


@pytest.mark.parametrize("name", ["s5", "convs5"])
def test_the_modes_of_s5_are_those_of_hippo_n(name):
    """Smith et al. 2023, section 3.3: the eigenvalues of the normal part of HiPPO-LegS, one of each conjugate pair."""
    mixer = create_mixer(name, channels=2, d_state=8, rngs=nnx.Rngs(0))
    matrix, _, low_rank = hippo("legs", 8)
    expected = np.linalg.eigvals(matrix + low_rank.T @ low_rank)
    expected = expected[expected.imag > 0][np.argsort(expected.imag[expected.imag > 0])]
    found = -np.exp(np.asarray(mixer.log_A_real[...])) + 1j * np.asarray(mixer.A_imag[...])
    np.testing.assert_allclose(found[np.argsort(found.imag)], expected, rtol=1e-5)


def test_the_layer_starts_like_the_mixers():
    layer = S4(1000, d_state=2, dt_min=0.02, dt_max=0.3, rngs=nnx.Rngs(0))
    assert_log_uniform(layer.log_dt[...], 0.02, 0.3)


def test_the_open_gates_of_rglru_decay_uniformly():
    """De et al. 2024, section 2.4: a^c, the decay of an open gate, is uniform on [0.9, 0.999]."""
    mixer = create_mixer("rglru", channels=3000, rngs=nnx.Rngs(0))
    decay = np.exp(-8 * np.log1p(np.exp(np.asarray(mixer.Lambda[...], np.float64))))
    uniform = (decay - 0.9) / 0.099
    assert uniform.min() >= -1e-4 and uniform.max() <= 1 + 1e-4
    np.testing.assert_allclose(np.histogram(uniform, bins=10, range=(0, 1))[0] / 300, 1, atol=0.3)
