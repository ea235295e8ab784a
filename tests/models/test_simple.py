import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx
from reference_simple import forward

import made
from cssm.core.errors import ShapeError, UnknownNameError, UsageError
from cssm.models import SimpleCSSMConfig, create_model
from cssm.nn import MIXERS, Mixer
from cssm.nn.mixers.no_gate import NoGate
from model_specimens import make, slopes
from tolerances import assert_close

RECURRENT = [name for name in MIXERS.names() if issubclass(MIXERS[name], Mixer)]
READOUTS = ("last", "mean", "all")
KINDS = ["no_gate", "gated", "gdn_seq", "s4", "mingru"]  # in the model; alone, every mixer obeys the laws
SMALL = {"embed_dim": 8, "stem": "pixel", "norm": "global_layer_causal"}


def build(**options):
    return create_model("simple", rngs=nnx.Rngs(0), **{**SMALL, **options})


clip = partial(made.clip, grid=(8, 8), channels=3)


@jax.jit
def run(model, x, key=None):
    return model(x, key=key)


def shaped(model, x, method="__call__"):
    """The shapes of what the model gives, traced and not computed."""
    return jax.eval_shape(lambda model, x: getattr(type(model), method)(model, x), model, x)


def streamed(model, x):
    step = jax.jit(lambda model, state, frame: model.step(state, frame))
    state, logits = model.init_state(x.shape[0], x.shape[2:4]), []
    for t in range(x.shape[1]):
        state, y = step(model, state, x[:, t])
        logits.append(y)
    return logits


AFFINE = {"norm": "none", "act": "none", "position": "none"}
WRITTEN_OUT = {  # as configured -> the path that a call takes
    "defaults": {"stem": "conv", "norm": "global_layer"},
    "two blocks": {"depth": 2, "norm": "global_layer", "act": "softplus"},
    "causal, mean of frames": {"depth": 2, "readout": "mean"},
    "affine: lifted": AFFINE,
    "affine, mean of frames": AFFINE | {"readout": "mean", "pool": "mean"},
    "pooled": {"readout": "all", "pool": "mean", "position": "none"},
    "gates": {"mixer": "gated", "norm": "layer", "readout": "all"},
    "attention": {"mixer": "transformer", "norm": "global_layer"},
    "MLP": {"norm": "layer", "mlp_ratio": 2.0, "layer_scale": 0.5, "readout": "mean"},
    "MLP, affine": AFFINE | {"mlp_ratio": 2.0},
    "strides": {"depth": 2, "strides": (1, 2), "stem": "patch", "patch_size": 2, "pool": "mean"},
    "by block": {"depth": 2, "unroll": "block", "act": "relu"},
}


QUICK = ("defaults", "affine: lifted", "gates", "strides", "by block", "pooled")
PATHS = [what if what in QUICK else pytest.param(what, marks=pytest.mark.slow) for what in WRITTEN_OUT]


@pytest.mark.parametrize("what", PATHS)
@pytest.mark.parametrize("kind", ["clip", "image"])
def test_every_path_equals_the_model_written_out(what, kind):
    config = SimpleCSSMConfig(**SMALL | WRITTEN_OUT[what], seq_len=3)
    model = make(config)
    x = clip(t=3, grid=(9, 9)) if kind == "clip" else clip(grid=(9, 9))[:, 0]
    actual, expected = (slopes(model, f, x) for f in (lambda m, x: m(x), lambda m, x: forward(m, config, x)))
    assert_close(actual[0], expected[0], 1e-5)
    assert_close(actual[1], expected[1], 5e-5)


def test_unrolled_by_block_is_unrolled_as_a_network_at_depth_one_and_for_one_frame():
    image = clip()[:, 0]
    for options in ({"depth": 1, "seq_len": 4}, {"depth": 2, "seq_len": 1}):
        assert_close(*(run(build(unroll=unroll, **options), image) for unroll in ("block", "network")), 1e-5)
    two = {"depth": 2, "seq_len": 4}
    assert not np.allclose(*(run(build(unroll=unroll, **two), image) for unroll in ("block", "network")), atol=1e-4)


@pytest.mark.parametrize(
    ("mixer", "readout", "pool"),
    [
        *(pytest.param(mixer, "last", "max", marks=pytest.mark.slow) for mixer in KINDS[1:]),
        *(("no_gate", r, p) for r in READOUTS for p in ("max", "mean")),
    ],
)
def test_streaming_gives_the_logits_of_the_parallel_pass(mixer, readout, pool):
    model, x = build(mixer=mixer, readout=readout, pool=pool, depth=2), clip()
    logits = streamed(model, x)
    assert_close(logits[-1], run(model, x), 1e-5)
    assert_close(logits[2], run(model, x[:, :3]), 1e-5)


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


def test_an_affine_stem_is_handed_to_the_mixer(monkeypatch):
    """As lift, with last and mean readouts, where nothing else stands between."""
    lifted = []
    scan = NoGate.scan
    monkeypatch.setattr(
        NoGate, "scan", lambda *a, lift=None, **k: lifted.append(lift is not None) or scan(*a, lift=lift, **k)
    )
    for options in ({}, {"readout": "mean"}, {"mlp_ratio": 1.0}):
        shaped(build(**AFFINE, **options), clip())
    assert lifted == [True] * 3
    for options in ({"readout": "all"}, {"act": "gelu"}, {"stem": "patch"}, {"depth": 2}, {"strides": (2,)}):
        shaped(build(**{**AFFINE, **options}), clip())
    shaped(build(**AFFINE, readout="mean", mlp_ratio=1.0), clip())
    assert lifted[3:] == [False] * 7


@pytest.mark.parametrize(
    ("mixer", "readout"), [(m, "last") for m in [*KINDS[1:], "transformer"]] + [("no_gate", r) for r in READOUTS]
)
def test_a_static_image_equals_the_repeated_frame(mixer, readout):
    model = build(mixer=mixer, readout=readout, position="none", seq_len=6, norm="global_layer", grid=(8, 8))
    image = clip()[:, 0]
    video = jnp.broadcast_to(image[:, None], (2, 6, 8, 8, 3))
    assert_close(run(model, image), run(model, video), 1e-5)


def test_static_image_stands_at_time_zero_under_mrope():
    model, image = build(position="mrope", seq_len=1), clip()[:, 0]
    assert_close(run(model, image), run(model, image[:, None]), 1e-5)


@pytest.mark.parametrize(
    "mixer",
    ["no_gate", "transformer", *(pytest.param(m, marks=pytest.mark.slow) for m in (*KINDS[1:], "spatial_attn"))],
)
def test_mrope_changes_the_output(mixer):
    options = {"mixer": mixer, "embed_dim": 24, "grid": (8, 8), "readout": "all"}
    options["mixer_options"] = {"layer_scale": None} if mixer in ("spatial_attn", "transformer") else {}
    turned, plain = (build(position=position, **options) for position in ("mrope", "none"))
    assert not np.allclose(run(turned, clip()), run(plain, clip()), atol=1e-4)


def test_global_layer_is_joint_over_time_at_depth_one():
    model, x = build(norm="global_layer", position="none", readout="all"), clip()
    features = model.stack.blocks[0].norm(model._embed(x))
    np.testing.assert_allclose(features.mean((1, 2, 3, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(features.std((1, 2, 3, 4)), 1, atol=1e-3)


@pytest.mark.parametrize("mixer", [*KINDS, "transformer", "spatial_attn"])
def test_another_resolution_at_test_time(mixer):
    assert shaped(build(mixer=mixer, grid=(8, 8)), clip(grid=(11, 11))).shape == (2, 2)


def test_drop_path_needs_a_key_and_changes_training_only():
    model, x = build(drop_path=0.5), clip()
    assert_close(run(model, x), run(build(), x))
    assert not np.allclose(run(model, x, jax.random.key(0)), run(model, x, jax.random.key(3)))


def test_strides_make_the_grid_coarser():
    model = build(depth=3, strides=(1, 2, 2), stem="conv", stem_layers=1, grid=(20, 13))
    assert [(layer.name, layer.grid, layer.channels) for layer in model.layers()] == [
        ("layer 1: no_gate", (10, 7), 8), ("layer 2: no_gate", (5, 4), 8), ("layer 3: no_gate", (3, 2), 8),
    ]  # fmt: skip
    assert [y.shape[2:4] for y in shaped(model, clip(grid=(9, 9)), "intermediates")] == [(5, 5), (3, 3), (2, 2)]
    assert model.layers((40, 40))[0].grid == (20, 20)


def test_intermediates_of_the_blocks_asked_for():
    model = build(depth=3)
    everything, some = jax.jit(lambda m, x: (m.intermediates(x), m.intermediates(x, (-1, 0))))(model, clip())
    assert_close(some, (everything[2], everything[0]), 1e-5)
    for unroll, frames in (("network", (8,)), ("block", ())):
        model = build(depth=2, unroll=unroll)
        assert [y.shape for y in shaped(model, clip()[:, 0], "intermediates")] == [(2, *frames, 8, 8, 8)] * 2


def test_a_configuration_fits_itself_to_samples():
    config = SimpleCSSMConfig(seq_len=5, embed_dim=16)
    assert config.fitted((12, 7, 1), 4) == dataclasses.replace(config, grid=(12, 7), in_channels=1, num_classes=4)
    assert config.fitted((9, 12, 7, 1), 4).seq_len == 9


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: create_model("simpel", rngs=nnx.Rngs(0)), UnknownNameError, "did you mean 'simple'"),
        (lambda: build(mixer="no_gat"), UnknownNameError, "did you mean 'no_gate'"),
        (lambda: build(embed_dims=3), UsageError, "embed_dims"),
        (lambda: build(mixer="transformer", mixer_options={"kernel_size": 3}), UsageError, "cannot honour kernel_size"),
        (lambda: build(norm="batch"), UnknownNameError, "global_layer"),
        (lambda: build(grid=(8, 0)), UsageError, "width of the grid is 0, expected at least 1"),
        (lambda: build(strides=(1, 2)), UsageError, r"strides \(1, 2\) are not one for each of 1 blocks"),
        (lambda: build(strides=(0,)), UsageError, "stride of a block is 0, expected at least 1"),
        (lambda: build(stem_layers=2), UsageError, "stem 'pixel' cannot honour layers; it has no options"),
        (lambda: build(stem="conv", patch_size=2), UsageError, "cannot honour patch_size; its options are layers"),
        (lambda: build(stem="patch", patch_size=0), UsageError, "patch_size is 0"),
        (lambda: build(unroll="time"), UsageError, "unknown unroll 'time': use network or block"),
        (lambda: build(mlp_ratio=-1.0), UsageError, "mlp_ratio is -1.0"),
        (lambda: build(mlp_ratio=0.01), UsageError, "mlp_ratio is 0.01, expected at least one hidden channel"),
        (lambda: build(position="sine"), UsageError, "mrope, learned or none"),
        (lambda: build().intermediates(clip(), (1,)), UsageError, "no block 1: the model has blocks 0 to 0"),
        (lambda: build(pool="min"), UsageError, "use max, mean, token"),
        (lambda: build(readout="first"), UsageError, "last, mean, all"),
        (lambda: build(stem="big"), UnknownNameError, "conv, default, patch, pathtracker, pixel"),
        (lambda: build(act="tanh"), UsageError, "softplus"),
        (lambda: build(depth=0), UsageError, "depth is 0, expected at least 1"),
        (lambda: build(num_classes=0), UsageError, "num_classes is 0, expected at least 1"),
        (lambda: build(in_channels=0), UsageError, "in_channels is 0, expected at least 1"),
        (lambda: build(drop_path=1.0), UsageError, "drop_path is 1.0"),
        (lambda: build(stem="default", stem_layers=0), UsageError, "stem_layers is 0, expected at least 1"),
        (lambda: build(embed_dim=7)(clip()), ShapeError, "7 is odd"),
        (lambda: build()(clip()[..., :2]), ShapeError, "clips"),
        (lambda: build()(clip(t=0)), ShapeError, "zero frames"),
        (lambda: build(stem="default")(clip(grid=(3, 3))), ShapeError, "at least 4x4"),
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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"embed_dim": "8"}, "SimpleCSSMConfig.embed_dim is '8', expected int"),
        ({"grid": (8, 8, 3)}, r"SimpleCSSMConfig.grid is \(8, 8, 3\), expected tuple\[int, int\]"),
        ({"mixer_options": [3]}, r"SimpleCSSMConfig.mixer_options is \[3\], expected .*Mapping"),
    ],
)
def test_values_of_another_type_are_named(options, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # past the type check that only tests have
    with pytest.raises(UsageError, match=says):
        build(**options)


@pytest.mark.parametrize("mixer", RECURRENT)
def test_step_refuses_what_does_not_fit_the_state(mixer, monkeypatch):
    model, x = build(mixer=mixer), clip()
    state = model.init_state(2, (8, 8))
    shapes = [[v.shape for v in jax.tree.leaves(model.init_state(2, grid))] for grid in ((8, 8), (6, 6))]
    another_grid = [] if shapes[0] == shapes[1] else [clip(grid=(6, 6))[:, 0]]  # a state over tokens fits every grid
    for wrong in (*another_grid, x[:1, 0]):
        with pytest.raises(ShapeError, match=r"state shapes .* do not fit"):
            model.step(state, wrong)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # past the type check that only tests have
    with pytest.raises(ShapeError, match=r"one frame .* got shape \(2, 5, 8, 8, 3\)"):
        model.step(state, x)
