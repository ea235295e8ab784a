"""The belief layer: its recurrence from the definition, its bound, its margin; samples between cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cssm.nn.belief import ANYWHERE, EPSILON, Belief
from cssm.nn.parts.sampling import patches, sample
from tolerances import assert_close


@pytest.fixture(scope="module")
def layer():
    return Belief(4, 6, 5, rngs=nnx.Rngs(0))


def inputs(rows, steps, height, width, features=6, seed=0):
    """(logits, features, posterior, gate) of that many frames."""
    rng = np.random.RandomState(seed)
    logits = rng.normal(size=(rows, steps, height, width)).astype(np.float32)
    posterior = np.exp(2 * logits) / np.exp(2 * logits).sum((2, 3), keepdims=True)
    gate = rng.uniform(0, 1, (rows, steps)).astype(np.float32)
    return logits, rng.normal(size=(*logits.shape, features)).astype(np.float32), posterior, gate


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


def test_the_prior_is_the_past_moved_and_faded(layer):
    """One step after another, on a map so large that nothing reaches its border; each prior is 1 on average."""
    rng = np.random.RandomState(0)
    entering = np.zeros((1, 4, 17, 19), np.float32)
    entering[:, :, 7:10, 8:11] = rng.uniform(size=(1, 4, 3, 3))
    _, found = layer._prior(layer.init_state(1, (17, 19)), jnp.asarray(entering))
    kernel, decay = np.asarray(layer.motions(), np.float64), np.asarray(layer.decays(), np.float64)
    np.testing.assert_allclose(kernel.sum((1, 2)), 1, rtol=1e-6)
    assert np.asarray(found[0, 0]).max() < 0.05, "no past, but for rounding"
    for c in range(4):
        belief = entering[0, 0].astype(np.float64)
        for t in range(1, 4):
            past = decay[c] * moved(belief, kernel[c])
            np.testing.assert_allclose(found[0, t, :, :, c], 17 * 19 * past / (past.sum() + EPSILON), atol=2e-4)
            belief = past + entering[0, t]


def test_the_posterior_is_evidence_times_prior(layer):
    """Without the residual: softmax(l + s log(e + prior)) ~ e^l (e + prior)^s."""
    bare = Belief(4, 6, 5, rngs=nnx.Rngs(0))
    bare.down.kernel[...] = 0 * bare.down.kernel[...]
    logits, features, posterior, gate = inputs(2, 3, 6, 7)
    _, new = bare.scan(bare.init_state(2, (6, 7)), logits, features, posterior, gate)
    _, prior = bare._prior(bare.init_state(2, (6, 7)), jnp.asarray(posterior * gate[..., None, None]))
    expected = np.exp(logits) * (ANYWHERE + np.asarray(prior).mean(-1))
    np.testing.assert_allclose(jnp.exp(new), expected, rtol=2e-4)


def test_a_belief_stays_within_its_bound_for_ever(layer):
    spectrum = np.abs(np.asarray(layer.spectrum((8, 9))))
    decay = np.asarray(layer.decays())
    assert (spectrum.max((1, 2)) <= decay + 1e-6).all() and decay.max() < 1
    logits, features, posterior, gate = inputs(1, 500, 8, 9)
    state, new = layer.scan(layer.init_state(1, (8, 9)), logits, features, posterior, np.ones_like(gate))
    total = np.asarray(state[0, :, 0, 0]).real  # of the map: one posterior a frame enters, of which a share stays
    assert (total <= 1 / (1 - decay) * (1 + 1e-5)).all() and (total > 0).all() and np.isfinite(np.asarray(new)).all()


def test_frames_in_parts_equal_all_at_once(layer):
    arguments = inputs(2, 5, 6, 7)
    state, whole = layer.scan(layer.init_state(2, (6, 7)), *arguments)
    carried, parts = layer.init_state(2, (6, 7)), []
    for a, b in ((0, 1), (1, 4), (4, 5)):
        carried, y = layer.scan(carried, *(x[:, a:b] for x in arguments))
        parts.append(y)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=2e-5)
    assert_close(carried, state)


def test_what_leaves_the_frame_does_not_come_in_opposite(layer):
    """A thing at the right border: the prior at the left border is that of nowhere."""
    posterior = np.zeros((1, 2, 8, 8), np.float32)
    posterior[0, 0, 4, 7] = 1
    _, prior = layer._prior(layer.init_state(1, (8, 8)), jnp.asarray(posterior))
    last = np.asarray(prior[0, 1])
    assert last[4, 7].max() > 1 and np.abs(last[:, :3]).max() < 1e-3


def test_without_memory_a_frame_is_seen_alone():
    layer = Belief(4, 6, 5, memory=False, rngs=nnx.Rngs(0))
    arguments = inputs(1, 4, 5, 5)
    _, y = layer.scan(layer.init_state(1, (5, 5)), *arguments)
    _, last = layer.scan(layer.init_state(1, (5, 5)), *(x[:, 3:] for x in arguments))
    np.testing.assert_allclose(y[:, 3:], last, atol=1e-6)


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
