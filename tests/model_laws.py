"""What holds for every model in the registry, as it is and with options that take other paths (models/model.py).

A new model is tested by being registered. It is made small by fields of the usual names (`model_specimens.SMALL`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cssm.core.errors import UsageError
from cssm.train.state import Blueprint, split
from model_specimens import (
    EVERY,
    GRID,
    OUTPUTS,
    SPECIMENS,
    STREAMING,
    B,
    T,
    build,
    by_step,
    clip,
    config,
    make,
    parallel,
    slopes,
    streamed,
    streams,
    takes_dt,
)
from tolerances import assert_close

VALUES, GRADIENTS = 1e-5, 5e-5  # float32, through norms of few pixels
every_model = pytest.mark.parametrize("name", EVERY)


def test_0_the_streaming_variants_stream():
    assert set(STREAMING) <= {name for name in SPECIMENS if streams(name)}


plain = jax.jit(lambda model, x: model(x))  # compiled once for a model and a shape
features = jax.jit(lambda model, x: model.features(x))


@every_model
def test_1_streaming_equals_the_parallel_pass(name):
    """In values and gradients, for the clip and for a part of it."""
    model = build(name)
    if not streams(name):
        with pytest.raises(UsageError, match="cannot stream"):
            model.init_state(B, GRID)
        return
    (_, outputs), gradients = streamed(name)
    assert_close((outputs[2], outputs[-1]), parallel(name)[0], VALUES, what="values")
    assert_close(gradients, parallel(name)[1], GRADIENTS, what="gradients")


@every_model
def test_2_any_cut_of_a_clip_gives_the_same(name):
    if not streams(name):
        pytest.skip("it cannot stream, and says so")
    cut = lambda m, x: in_chunks(m, x, (1, T - 2, 1))  # noqa: E731
    (state, values), gradients = slopes(build(name), cut, clip(), seen=lambda result: result[1][1:])
    after, outputs = streamed(name)[0]
    assert_close((state, values), (after, (outputs[0], outputs[-2], outputs[-1])), VALUES)
    assert_close(values[1:], parallel(name)[0], VALUES)
    assert_close(gradients, parallel(name)[1], GRADIENTS)


def in_chunks(model, x, cut):
    """(state, the output after every chunk)."""
    state, start, outputs = model.init_state(B, GRID), 0, []
    for length in cut:
        state, y = model.scan(state, x[:, start : start + length])
        outputs.append(y)
        start += length
    return state, tuple(outputs)


@every_model
def test_3_another_grid(name):
    """Frames of any size; and where no parameter is a table, the grid of the configuration changes nothing."""
    model, x = build(name), clip(grid=(11, 14))
    y = np.asarray(plain(model, x))
    assert y.shape == (B, OUTPUTS) and np.isfinite(y).all()
    other = make(dataclasses.replace(config(name), grid=(11, 14)))
    shapes = [[p.shape for p in jax.tree.leaves(m)] for m in (model, other)]
    learned = getattr(config(name), "position", "none") == "learned"
    tables = learned or any(layer.mixer.learns_grid for layer in model.layers())
    assert tables or shapes[0] == shapes[1]
    if shapes[0] == shapes[1]:
        assert_close(plain(other, x), y)


@every_model
def test_4_every_parameter_has_a_gradient(name):
    """Finite and not zero."""
    for path, g in jax.tree_util.tree_leaves_with_path(parallel(name)[1]):
        assert np.isfinite(g).all() and np.abs(g).max() > 0, jax.tree_util.keystr(path)


@every_model
def test_5_an_image_is_its_repeated_frame(name):
    """With no position in time; one frame alone is one at time 0."""
    image = clip()[:, 0]
    model = make(config(name).fitted((1, *image.shape[1:]), OUTPUTS))
    assert_close(plain(model, image), plain(model, image[:, None]), VALUES)
    recurrent = any(layer.mixer.recurrent for layer in model.layers())  # or else there is but one way
    still = make(config(name, position="none", **({"unroll": "network"} if recurrent else {})))
    repeated = np.repeat(image[:, None], T, 1)
    expected, actual = (slopes(still, lambda m, x: m(x), x) for x in (repeated, image))
    assert_close(actual[0], expected[0], VALUES)
    assert_close(actual[1], expected[1], GRADIENTS)


@every_model
def test_6_drop_path_keeps_the_expectation(name):
    """Features over many keys have the mean of those without; without 1 / (1 - p) it is off by their deviation."""
    if not hasattr(config(name), "drop_path"):
        pytest.skip("it has no drop path")
    model = make(config(name, drop_path=0.5, depth=1, strides=(), layer_scale=0.05))
    keys = jax.random.split(jax.random.key(0), 512)
    drawn = jax.jit(lambda m, x: jax.vmap(lambda key: m.features(x, key=key))(keys))(model, clip())
    mean, kept = drawn.mean(0), features(model, clip())
    rms = lambda v: float(jnp.sqrt(jnp.mean(jnp.square(v))))  # noqa: E731
    assert rms(mean - kept) < 0.2 * rms(drawn.std(0))
    assert rms(drawn.std(0)) > 1e-3 * rms(kept)


@every_model
def test_7_rows_of_a_batch_never_mix(name):
    x = clip()
    poisoned = x.copy()
    poisoned[0] = np.nan
    for a, b in ((x, poisoned), (x[:, 0], poisoned[:, 0])):
        clean, dirty = plain(build(name), a), plain(build(name), b)
        np.testing.assert_array_equal(clean[1], dirty[1])
        assert np.isnan(dirty[0]).all()


@every_model
def test_8_trunk_and_head_agree_with_the_call(name):
    model = build(name)
    for x in (clip(), clip()[:, 0]):
        trunk = features(model, x)
        after, last = jax.jit(lambda m, x: (m.intermediates(x), m.intermediates(x, (-1,))))(model, x)
        assert_close(model.head(trunk), plain(model, x), VALUES)
        assert len(after) == len(model.layers())
        assert [y.shape[-3:] for y in after] == [(*layer.grid, layer.channels) for layer in model.layers(GRID)]
        assert_close(last[0], after[-1], VALUES)
        shown = [after[-1]] if after[-1].ndim == 4 else [after[-1], after[-1][:, -1], after[-1].mean(1)]
        assert any(np.allclose(y, trunk, atol=1e-4) for y in shown if y.shape == trunk.shape)


@every_model
def test_9_unit_steps_of_time_are_the_default(name):
    model, x, ones = build(name), clip(), np.ones((B, T), np.float32)
    if not takes_dt(name):
        with pytest.raises(UsageError, match="cannot honour dt"):
            model(x, dt=ones)
        return
    run = jax.jit(lambda m, x, dt: m(x, dt=dt))
    assert_close(run(model, x, ones), plain(model, x), VALUES)
    assert not np.allclose(run(model, x, 3 * ones), plain(model, x), atol=1e-4)
    if streams(name):
        dt = np.random.default_rng(0).uniform(0.5, 3, (B, T)).astype(np.float32)
        assert_close(jax.jit(by_step)(model, x, dt)[1][-1], run(model, x, dt), VALUES)


@every_model
def test_10_another_head_keeps_the_trunk(name):
    model = config(name).make(nnx.Rngs(0))
    before = features(model, clip())
    model.reset_classifier(5, nnx.Rngs(1))
    assert_close(features(model, clip()), before)
    assert model.head(before).shape == (B, 5)


QUICK_IN_HALF = ("vit", "simple, learned positions")
IN_HALF = [name if name in QUICK_IN_HALF else pytest.param(name, marks=pytest.mark.slow) for name in SPECIMENS]


@pytest.mark.parametrize("name", IN_HALF)
def test_11_bfloat16_gradients_are_finite(name):
    """Parameters and frames cast as `--compute-dtype bfloat16` does it: near to float32, of an image too."""
    model = build(name)
    blueprint, params = Blueprint.of(model), split(model)[0]
    half, x = blueprint.cast(params, jnp.bfloat16), jnp.asarray(clip(), jnp.bfloat16)

    def loss(params, x):
        clips, images = (blueprint.build(params, split(model)[1])(x) for x in (x, x[:, 0]))
        return jnp.square(clips.astype(jnp.float32)).sum() + jnp.square(images.astype(jnp.float32)).sum()

    value, slope = jax.jit(jax.value_and_grad(loss))(half, x)
    want = jax.jit(loss)(params, clip())
    assert np.isfinite(value) and value == pytest.approx(float(want), rel=0.15, abs=0.05)
    for path, gradient in slope.items():
        assert np.isfinite(np.asarray(gradient, np.float32)).all(), path
