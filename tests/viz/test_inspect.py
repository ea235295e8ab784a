import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cssm.nn import create_mixer
from cssm.nn.stack import LayerFacts
from cssm.viz.inspect import decay_horizon, draw_gains, inspect_layer, radial_bins


def test_horizon_is_the_frames_until_a_thousandth_is_left():
    assert math.isclose(0.9 ** decay_horizon(0.9), 1e-3)
    assert decay_horizon(0.0) == 0 and decay_horizon(1.0) == math.inf


def test_a_known_gain_is_reported():
    mixer = create_mixer("no_gate", channels=2, kernel_size=1, rngs=nnx.Rngs(0))
    mixer.recurrence_kernel[...] = jnp.full((2, 1, 1), 1.0)  # a delta: gain rho / 2 at every frequency
    layer = inspect_layer("layer", mixer, (8, 8), 2)
    np.testing.assert_allclose(layer.spectral_radius, 0.999 / 2, rtol=1e-6)
    np.testing.assert_allclose(layer.horizon, math.log(1e-3) / math.log(0.999 / 2), rtol=1e-5)
    assert layer.parameters == 2 + 2 * 2 + 2
    assert layer.state_bytes == 2 * 8 * 5 * 8
    assert layer.flops_per_frame > 0 and layer.bytes_per_frame > 0


def test_controls_have_no_radius_and_nothing_to_draw(tmp_path):
    mixer = create_mixer("spatial_attn", channels=8, grid=(4, 4), rngs=nnx.Rngs(0))
    layer = inspect_layer("layer", mixer, (4, 4), 8)
    assert layer.spectral_radius is None and layer.state_bytes == 0
    place = LayerFacts(name="layer", mixer=mixer, grid=(4, 4), channels=8)
    assert not draw_gains([place], tmp_path / "gains.png") and not (tmp_path / "gains.png").exists()


@pytest.mark.parametrize("name", ["no_gate", "conv_ssm", "realspace_seq", "lru"])
def test_gains_are_drawn_wherever_they_are_fixed(name, tmp_path):
    place = LayerFacts(name="layer 1", mixer=create_mixer(name, channels=4, rngs=nnx.Rngs(0)), grid=(8, 10), channels=4)
    assert draw_gains([place], tmp_path / "gains.png") and (tmp_path / "gains.png").stat().st_size > 5000


def test_the_radial_profile_of_an_isotropic_gain_is_the_gain():
    height, width = 16, 12
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    bins, rings = radial_bins((height, width))
    gain = np.exp(-radius.reshape(-1))
    profile = [gain[bins == i].mean() for i in range(len(rings))]
    np.testing.assert_allclose(profile, np.exp(-rings), atol=2e-3)
    assert (bins == 0).sum() == 1 and rings[0] == 0
