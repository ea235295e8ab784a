"""The belief layer: its recurrence from the definition, its bound, its margin; samples between cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cssm.nn.belief import MARGIN, Belief
from cssm.nn.parts.sampling import patches, sample
from tolerances import assert_close


@pytest.fixture(scope="module")
def layer():
    return Belief(6, 5, rngs=nnx.Rngs(0))


def moved(belief, kernel):
    """sum over taps of kernel[i, j] times the map moved by (i, j) from the middle, zeros coming in."""
    out, middle = np.zeros_like(belief), kernel.shape[0] // 2
    height, width = belief.shape
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            dy, dx = i - middle, j - middle
            for y in range(max(0, dy), min(height, height + dy)):
                for x in range(max(0, dx), min(width, width + dx)):
                    out[y, x] += kernel[i, j] * belief[y - dy, x - dx]
    return out


def test_the_recurrence_moves_fades_and_takes_in(layer):
    """One step after another, on a map so large that nothing reaches its border."""
    rng = np.random.RandomState(0)
    x = np.zeros((1, 3, 17, 19, 6), np.float32)
    x[:, :, 7:10, 8:11] = rng.normal(size=(1, 3, 3, 3, 6))
    gate = rng.uniform(0, 1, (1, 3)).astype(np.float32)
    state, _ = layer.scan(layer.init_state(1, (17, 19)), jnp.asarray(x), jnp.asarray(gate))
    kernel = np.asarray(jax.nn.softmax(layer.kernel[...].reshape(6, -1)).reshape(6, 5, 5), np.float64)
    decay = np.asarray(jax.nn.sigmoid(layer.decay[...]), np.float64)
    entering = gate[..., None, None, None] * np.asarray(layer.enter(jnp.asarray(x)))
    for c in range(6):
        belief = np.zeros((17, 19))
        for t in range(3):
            belief = decay[c] * moved(belief, kernel[c]) + entering[0, t, :, :, c]
        found = np.fft.irfft2(np.asarray(state[0, c]), (17 + MARGIN, 19 + MARGIN))[:17, :19]
        np.testing.assert_allclose(found, belief, atol=2e-6)


def test_a_belief_stays_within_its_bound_for_ever(layer):
    spectrum = np.abs(np.asarray(layer.spectrum((8, 9))))
    decay = np.asarray(jax.nn.sigmoid(layer.decay[...]))
    assert (spectrum.max((1, 2)) <= decay + 1e-6).all() and decay.max() < 1
    x = jnp.ones((1, 400, 8, 9, 6))
    state, y = layer.scan(layer.init_state(1, (8, 9)), x, jnp.ones((1, 400)))
    most = np.abs(np.asarray(layer.enter(x[:1, :1]))).max() / (1 - decay.max())
    fields = np.fft.irfft2(np.asarray(state[0]), (8 + MARGIN, 9 + MARGIN))
    assert np.abs(fields).max() <= most * (1 + 1e-5) and np.isfinite(np.asarray(y)).all()


def test_frames_in_parts_equal_all_at_once(layer):
    rng = np.random.RandomState(1)
    x, gate = rng.normal(size=(2, 5, 6, 7, 6)).astype(np.float32), rng.uniform(0, 1, (2, 5)).astype(np.float32)
    state, whole = layer.scan(layer.init_state(2, (6, 7)), x, gate)
    carried, parts = layer.init_state(2, (6, 7)), []
    for a, b in ((0, 1), (1, 4), (4, 5)):
        carried, y = layer.scan(carried, x[:, a:b], gate[:, a:b])
        parts.append(y)
    assert_close(jnp.concatenate(parts, 1), whole)
    assert_close(carried, state)


def test_without_memory_a_frame_is_seen_alone():
    layer = Belief(6, 5, memory=False, rngs=nnx.Rngs(0))
    x, gate = np.random.RandomState(2).normal(size=(1, 4, 5, 5, 6)).astype(np.float32), np.ones((1, 4), np.float32)
    _, y = layer.scan(layer.init_state(1, (5, 5)), x, gate)
    _, last = layer.scan(layer.init_state(1, (5, 5)), x[:, 3:], gate[:, 3:])
    np.testing.assert_array_equal(y[:, 3:], last)


def test_patches_are_bilinear_samples_and_their_gradient_reaches_the_cells():
    rng = np.random.RandomState(3)
    features = rng.normal(size=(2, 6, 5, 3)).astype(np.float32)
    places = rng.uniform(-2, 8, (9, 2)).astype(np.float32)
    maps = rng.randint(0, 2, 9)
    found = np.asarray(patches(jnp.asarray(features), jnp.asarray(maps), jnp.asarray(places), 2))
    for n, (x, y) in enumerate(places):
        x, y = np.clip(x - 0.5, 0, 4), np.clip(y - 0.5, 0, 5)
        for i in range(5):
            for j in range(5):
                at = lambda a, b: features[maps[n], np.clip(a, 0, 5), np.clip(b, 0, 4)]  # noqa: B023, E731
                a, b = int(np.floor(y)) + i - 2, int(np.floor(x)) + j - 2
                s, t = y - np.floor(y), x - np.floor(x)
                above, below = (1 - t) * at(a, b) + t * at(a, b + 1), (1 - t) * at(a + 1, b) + t * at(a + 1, b + 1)
                np.testing.assert_allclose(found[n, i, j], (1 - s) * above + s * below, atol=1e-5)
    total = lambda f: sample(f, jnp.asarray(maps), jnp.asarray(places)).sum()  # noqa: E731
    assert float(jax.grad(total)(jnp.asarray(features)).sum()) == pytest.approx(27, rel=1e-5)  # weights sum to one
