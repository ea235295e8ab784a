"""Distributions of initial values, against what the papers say."""

import numpy as np
from flax import nnx

from cssm.nn import create_mixer


def test_the_eigenvalues_of_lru_are_uniform_in_area_on_the_ring():
    """Orvieto et al. 2023, Lemma 3.2: |L|^2 is uniform on r_min^2 .. r_max^2, the phase on 0 .. max_phase."""
    mixer = create_mixer("lru", channels=2, d_state=20_000, r_min=0.2, r_max=0.9, max_phase=2.0, rngs=nnx.Rngs(0))
    eigenvalues = np.asarray(mixer.transition((4, 4)), np.complex128).ravel()
    area = (np.abs(eigenvalues) ** 2 - 0.2**2) / (0.9**2 - 0.2**2)
    for uniform in (area, np.angle(eigenvalues) / 2.0):
        assert uniform.min() >= -1e-4 and uniform.max() <= 1 + 1e-4
        counts = np.histogram(uniform, bins=10, range=(0, 1))[0] / 2000
        np.testing.assert_allclose(counts, 1, atol=0.1)  # five standard deviations of a bin
