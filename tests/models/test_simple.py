import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from cssm.core.errors import ShapeError, UnknownNameError, UsageError
from cssm.models import create_model, list_models
from cssm.nn import MIXERS, Mixer
from tolerances import assert_close

RECURRENT = [name for name in MIXERS.names() if issubclass(MIXERS[name], Mixer)]
KINDS = ["no_gate", "gated", "gdn_seq", "s4", "mingru"]  # in the model; alone, every mixer obeys the laws
SMALL = {"embed_dim": 8, "stem": "pathtracker", "norm": "global_layer_causal"}


def build(**options):
    return create_model("simple", rngs=nnx.Rngs(0), **{**SMALL, **options})


def clip(t=5, size=8, seed=1):
    return jax.random.normal(jax.random.key(seed), (2, t, size, size, 3))


@jax.jit
def run(model, x, key=None):
    return model(x, key=key)


def streamed(model, x):
    step = jax.jit(lambda model, state, frame: model.step(state, frame))
    state, logits = model.init_state(x.shape[0], x.shape[2:4]), []
    for t in range(x.shape[1]):
        state, y = step(model, state, x[:, t])
        logits.append(y)
    return logits


READOUTS = ("last", "mean", "all")


@pytest.mark.parametrize(
    ("mixer", "readout", "pool"),
    [(mixer, "last", "max") for mixer in KINDS] + [("no_gate", r, p) for r in READOUTS for p in ("max", "mean")],
)
def test_streaming_gives_the_logits_of_the_parallel_pass(mixer, readout, pool):
    model, x = build(mixer=mixer, readout=readout, pool=pool, depth=2), clip()
    logits = streamed(model, x)
    assert_close(logits[-1], run(model, x), 1e-5)
    assert_close(logits[2], run(model, x[:, :3]), 1e-5)


AFFINE = {"norm": "none", "act": "none", "position": "none"}


@pytest.mark.parametrize(
    ("mixer", "options"),
    [(mixer, {"depth": 2}) for mixer in ("no_gate", "lru")]
    + [("no_gate", options) for options in (AFFINE, {"pool": "mean"}, {"readout": "mean"}, {"readout": "all"})],
)
def test_irregular_times_stream_as_in_the_parallel_pass(mixer, options):
    model, x = build(mixer=mixer, **options), clip()
    dt = jnp.array([[1, 2, 0.5, 1, 3], [0.25, 1, 1, 2, 1.5]])
    whole = jax.jit(lambda model, x, dt: model(x, dt=dt))
    step = jax.jit(lambda model, state, frame, dt: model.step(state, frame, dt))
    state = model.init_state(2, (8, 8))
    for t in range(5):
        state, logits = step(model, state, x[:, t], dt[:, t])
    assert_close(logits, whole(model, x, dt), 1e-5)
    assert_close(whole(model, x, jnp.ones_like(dt)), run(model, x), 1e-5)
    assert not np.allclose(whole(model, x, dt), run(model, x), atol=1e-4)


def test_streaming_an_affine_stem_and_a_pooling_stem():
    for options in ({"norm": "none", "act": "none", "position": "none"}, {"stem": "default", "norm": "layer"}):
        model, x = build(**options), clip()
        assert_close(streamed(model, x)[-1], run(model, x), 1e-5)


def test_affine_stem_takes_the_lifted_path_and_equals_the_plain_one():
    options = {"norm": "none", "act": "none", "position": "none"}
    model, x = build(**options), clip()
    assert model.affine
    slope = jax.jit(jax.grad(lambda m: jnp.square(m(x)).sum()))
    gradients = [nnx.state(slope(model), nnx.Param)]
    fast = run(model, x)
    model.affine = False
    gradients.append(nnx.state(slope(model), nnx.Param))
    assert_close(fast, run(model, x), 1e-5)
    assert_close(*map(jax.tree.leaves, gradients), 2e-5)


@pytest.mark.parametrize(
    ("mixer", "readout"), [(m, "last") for m in [*KINDS, "transformer"]] + [("no_gate", r) for r in READOUTS]
)
def test_a_static_image_equals_the_repeated_frame(mixer, readout):
    model = build(mixer=mixer, readout=readout, position="none", seq_len=6, norm="global_layer", image_size=8)
    image = clip()[:, 0]
    video = jnp.broadcast_to(image[:, None], (2, 6, 8, 8, 3))
    assert_close(run(model, image), run(model, video), 1e-5)


def test_static_image_stands_at_time_zero_under_mrope():
    model, image = build(position="mrope", seq_len=1), clip()[:, 0]
    assert_close(run(model, image), run(model, image[:, None]), 1e-5)


@pytest.mark.parametrize("mixer", [*KINDS, "transformer", "spatial_attn"])
def test_mrope_changes_the_output(mixer):
    options = {"mixer": mixer, "embed_dim": 24, "image_size": 8, "readout": "all"}
    options["mixer_options"] = {"layer_scale": None} if mixer in ("spatial_attn", "transformer") else {}
    turned, plain = (build(position=position, **options) for position in ("mrope", "none"))
    assert not np.allclose(run(turned, clip()), run(plain, clip()), atol=1e-4)


def test_global_layer_is_joint_over_time_at_depth_one():
    model, x = build(norm="global_layer", position="none", readout="all"), clip()
    features = model.norms[0](model._embed(x))
    np.testing.assert_allclose(features.mean((1, 2, 3, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(features.std((1, 2, 3, 4)), 1, atol=1e-3)


@pytest.mark.parametrize("mixer", [*KINDS, "transformer", "spatial_attn"])
def test_another_resolution_at_test_time(mixer):
    assert run(build(mixer=mixer, image_size=8), clip(size=11)).shape == (2, 2)


def test_drop_path_needs_a_key_and_changes_training_only():
    model, x = build(drop_path=0.5), clip()
    assert_close(run(model, x), run(build(), x))
    assert not np.allclose(run(model, x, jax.random.key(0)), run(model, x, jax.random.key(3)))


def test_every_model_has_a_forward_and_finite_gradients():
    for name in list_models():
        model = create_model(name, rngs=nnx.Rngs(0), embed_dim=8)
        gradient = jax.jit(jax.grad(lambda m: jnp.square(m(clip(size=16))).sum()))(model)
        assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(nnx.state(gradient, nnx.Param)))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: create_model("simpel", rngs=nnx.Rngs(0)), UnknownNameError, "did you mean 'simple'"),
        (lambda: build(mixer="no_gat"), UnknownNameError, "did you mean 'no_gate'"),
        (lambda: build(embed_dims=3), UsageError, "embed_dims"),
        (lambda: build(mixer="transformer", mixer_options={"kernel_size": 3}), UsageError, "cannot honour kernel_size"),
        (lambda: build(norm="batch"), UnknownNameError, "global_layer"),
        (lambda: build(pool="min"), UsageError, "max or mean"),
        (lambda: build(readout="first"), UsageError, "last, mean, all"),
        (lambda: build(stem="big"), UsageError, "pathtracker or default"),
        (lambda: build(act="tanh"), UsageError, "softplus"),
        (lambda: build(depth=0), UsageError, "depth is 0, expected at least 1"),
        (lambda: build(num_classes=0), UsageError, "num_classes is 0, expected at least 1"),
        (lambda: build(in_channels=0), UsageError, "in_channels is 0, expected at least 1"),
        (lambda: build(drop_path=1.0), UsageError, "drop_path is 1.0"),
        (lambda: build(stem="default", stem_layers=0), UsageError, "stem_layers is 0, expected at least 1"),
        (lambda: build(embed_dim=7)(clip()), ShapeError, "7 is odd"),
        (lambda: build()(clip()[..., :2]), ShapeError, "clips"),
        (lambda: build()(clip(t=0)), ShapeError, "zero frames"),
        (lambda: build(stem="default")(clip(size=3)), ShapeError, "at least 4x4"),
        (lambda: build(norm="global_layer").init_state(1, (8, 8)), UsageError, "global_layer_causal"),
        (lambda: build(mixer="transformer").init_state(1, (8, 8)), UsageError, "not recurrent"),
        (lambda: build(mixer_options={"boundary": "open"}), UsageError, "circular or zero"),
        (lambda: build(mixer_options={"margin": 3}), UsageError, "boundary='zero'"),
        (lambda: build(mixer="transformer", mixer_options={"rotary": False}), UsageError, "position decides"),
        (lambda: build(mixer="gated")(clip(), dt=np.ones((2, 5))), UsageError, "Gated cannot honour dt"),
        (lambda: build()(clip()[:, 0], dt=np.ones((2, 1))), UsageError, "dt is for clips"),
        (lambda: build()(clip(), dt=np.ones((2, 4))), ShapeError, "dt"),
        (lambda: build()(clip(), dt=np.zeros((2, 5))), UsageError, "positive"),
        (lambda: build().step(build().init_state(2, (8, 8)), clip()[:, 0], np.zeros(2)), UsageError, "positive"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("mixer", RECURRENT)
def test_step_refuses_what_does_not_fit_the_state(mixer, monkeypatch):
    model, x = build(mixer=mixer), clip()
    state = model.init_state(2, (8, 8))
    shapes = [[v.shape for v in jax.tree.leaves(model.init_state(2, grid))] for grid in ((8, 8), (6, 6))]
    another_grid = [] if shapes[0] == shapes[1] else [clip(size=6)[:, 0]]  # a state over tokens fits every grid
    for wrong in (*another_grid, x[:1, 0]):
        with pytest.raises(ShapeError, match=r"state shapes .* do not fit"):
            model.step(state, wrong)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # past the type check that only tests have
    with pytest.raises(ShapeError, match=r"one frame .* got shape \(2, 5, 8, 8, 3\)"):
        model.step(state, x)
