"""The hosts: published parameter counts, timm's logits, warm starts, and what is refused."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import made
from cssm.core.errors import ShapeError, UsageError
from cssm.models import (
    MODELS,
    ConvNeXtConfig,
    SimpleCSSMConfig,
    ViTConfig,
    create_model,
    load_timm,
    save_timm,
    timm_arrays,
)
from cssm.nn.parts import mlp, norm
from tolerances import assert_close

COUNTS = {  # 1000 classes, 10 classes: HOSTS.md section 1
    "vit_small_patch16_224": (22_050_664, 21_669_514), "vit_base_patch16_224": (86_567_656, 85_806_346),
    "deit3_small_patch16_224": (22_059_496, 21_678_346), "deit3_base_patch16_224": (86_585_320, 85_824_010),
    "deit3_large_patch16_224": (304_374_760, 303_360_010), "convnext_atto": (3_695_520, 3_377_730),
    "convnext_tiny": (28_589_128, 27_827_818), "convnext_base": (88_591_464, 87_576_714),
}  # fmt: skip
VARIANTS = {  # ConvNeXt-T, 10 classes
    "dwconv": 27_827_818, "fft": 27_821_194, "ssm": 28_470_346, "gated": 38_194_666, "conv3d": 28_178_890,
    "pure3d": 30_742_378,
}  # fmt: skip
TINY = {
    "vit": ViTConfig(grid=(32, 32), patch_size=8, embed_dim=16, depth=2, head_dim=8, num_classes=5),
    "deit3": ViTConfig(
        grid=(32, 32), patch_size=8, embed_dim=16, depth=2, head_dim=8, num_classes=5, class_position=False,
        layer_scale=1e-4,
    ),
    "convnext": ConvNeXtConfig(grid=(32, 32), depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), num_classes=5),
    "convnext_1x1": ConvNeXtConfig(
        grid=(32, 32), depths=(1, 1, 1, 1), dims=(4, 8, 12, 12), num_classes=5, conv_mlp=True
    ),
}  # fmt: skip
every = pytest.mark.parametrize("name", TINY)
logits = jax.jit(lambda model, x: model(x))


def count(config):
    shapes = nnx.eval_shape(lambda: nnx.state(config.make(nnx.Rngs(0)), nnx.Param))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def file_of(name):
    """(timm's arrays, [(images (2, H, W, 3), its logits)])."""
    arrays = load_file(Path(__file__).parent / "timm" / f"{name}.safetensors")
    cases = [(arrays.pop(f"input {n}").transpose(0, 2, 3, 1), arrays.pop(f"logits {n}")) for n in (32, 64)]
    return arrays, cases


def loaded(name, **fields):
    model = dataclasses.replace(TINY[name], **fields).make(nnx.Rngs(0))
    return model, load_timm(model, file_of(name)[0])


def difference(model, name):
    with jax.default_matmul_precision("highest"):
        return max(float(jnp.abs(logits(model, x) - expected).max()) for x, expected in file_of(name)[1])


LARGE = ("convnext_base", "deit3_large_patch16_224")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in COUNTS])
def test_as_many_parameters_as_published(name):
    assert tuple(count(dataclasses.replace(MODELS[name], num_classes=n)) for n in (1000, 10)) == COUNTS[name]


@pytest.mark.parametrize(
    "variant", [v if v in ("dwconv", "ssm", "pure3d") else pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS]
)
def test_as_many_parameters_as_the_variant(variant):
    assert count(ConvNeXtConfig(variant=variant, num_classes=10)) == VARIANTS[variant]


@pytest.mark.parametrize(("mixer", "expected"), [("standard", 28_649_194), ("no_gate", 31_890_634)])
def test_as_many_parameters_as_the_hybrid(mixer, expected):
    options = {"mixer": mixer, "mixer_options": {"kernel_size": 11}}
    assert count(ConvNeXtConfig(variant="hybrid", num_classes=10, **options)) == expected


@every
def test_the_logits_of_timm(name):
    model, report = loaded(name)
    assert not report.changed and not report.left and not report.kept
    assert difference(model, name) <= 2e-5


@pytest.mark.parametrize("fault", ["tanh GELU", "epsilon of 1e-5"])
def test_the_comparison_with_timm_sees_small_faults(monkeypatch, fault):
    if fault == "tanh GELU":
        gelu = jax.nn.gelu
        monkeypatch.setattr(mlp.jax.nn, "gelu", lambda x, approximate: gelu(x, approximate=True))
    else:
        monkeypatch.setattr(norm, "EPSILON", 1e-5)
    model, _ = loaded("deit3")
    run = jax.jit(lambda model, x: model(x))  # compiled anew
    assert max(float(jnp.abs(run(model, x) - expected).max()) for x, expected in file_of("deit3")[1]) > 4e-5


@every
def test_there_and_back(name, tmp_path):
    model, _ = loaded(name)
    arrays, again = file_of(name)[0], timm_arrays(model)
    assert set(again) == set(arrays)
    for key, value in arrays.items():
        np.testing.assert_array_equal(again[key], value)
    save_timm(model, tmp_path / "model.safetensors")
    other = TINY[name].make(nnx.Rngs(7))
    load_timm(other, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(logits(other, file_of(name)[1][0][0]), logits(model, file_of(name)[1][0][0]))


@pytest.mark.parametrize(
    "fields",
    [{"variant": "ssm", "conv_bias": True}, {"variant": "hybrid", "mixer": "no_gate"},
     pytest.param({"variant": "ssm", "conv_bias": True, "timesteps": 1}, marks=pytest.mark.slow),
     pytest.param({"variant": "conv3d", "conv_bias": True}, marks=pytest.mark.slow)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("unroll", ["block", pytest.param("network", marks=pytest.mark.slow)])
def test_a_warm_start_computes_what_the_plain_one_does(fields, unroll):
    model, report = loaded("convnext", unroll=unroll, **fields)
    assert not report.left and report.kept
    assert difference(model, "convnext") <= 2e-5
    x = made.clip(grid=(97, 61), channels=3, t=1)[:, 0]
    np.testing.assert_allclose(logits(model, x), logits(loaded("convnext")[0], x), atol=2e-5)


def test_a_warm_start_by_create_model(tmp_path):
    arrays, cases = file_of("convnext")
    save_file(arrays, tmp_path / "file.safetensors")
    fields = {f.name: getattr(TINY["convnext"], f.name) for f in dataclasses.fields(ConvNeXtConfig)}
    fields |= {"variant": "ssm", "timesteps": 24}
    model = create_model("convnext_tiny", rngs=nnx.Rngs(0), init_from=tmp_path / "file.safetensors", **fields)
    assert float(jnp.abs(logits(model, cases[0][0]) - cases[0][1]).max()) <= 2e-5


def test_what_a_mixer_host_takes_is_listed():
    model, report = loaded("deit3", mixer="no_gate", grid=(48, 32), num_classes=3, in_channels=1)
    assert report.changed["pos_embed"] == "resampled to 6 x 4"
    assert report.changed["patch_embed.proj.weight"] == "the sum of 3 input channels"
    assert report.left["head.weight"] == "shape (5, 16), the model has (16, 3): other classes"
    assert report.left["blocks.0.attn.qkv.weight"] == "the model has no such parameter"
    assert "blocks.1.mlp.fc1.weight" in report.taken and "taken: " in str(report)
    assert any("recurrence_kernel" in name for name in report.kept)
    assert model.head.head.kernel.shape == (16, 3)


def test_a_wrong_file_changes_nothing(tmp_path):
    model = TINY["vit"].make(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    deeper = dataclasses.replace(TINY["vit"], depth=3).make(nnx.Rngs(0))
    wider = dataclasses.replace(TINY["vit"], embed_dim=24, head_dim=8).make(nnx.Rngs(0))
    (tmp_path / "text.safetensors").write_text("no model")
    for source, says in (
        (timm_arrays(deeper), "the dictionary is not a timm file of this model; on one side alone: blocks.2"),
        (timm_arrays(wider), r"patch_embed.proj.weight has shape \(24, 3, 8, 8\), which does not fit stem.conv.kernel"),
        (file_of("convnext")[0], "is not a timm file of this model"),
        (file_of("vit")[0] | {"pos_embed": np.zeros(3, np.float32)}, r"pos_embed has shape \(3,\), which does not fit"),
        (file_of("vit")[0] | {"pos_embed": np.zeros((1, 16, 16), np.float32)}, r"does not fit stem.class_position"),
        ({}, "is not a timm file of this model"),
        (tmp_path / "none.safetensors", "no such file"),
        (tmp_path / "text.safetensors", "is not a safetensors file"),
    ):
        with pytest.raises(UsageError, match=says):
            load_timm(model, source)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, nnx.state(model, nnx.Param)))
    with pytest.raises(UsageError, match="timm has no such model"):
        timm_arrays(dataclasses.replace(TINY["vit"], mixer="no_gate").make(nnx.Rngs(0)))
    with pytest.raises(UsageError, match="timm has no SimpleCSSM"):
        load_timm(create_model("simple", rngs=nnx.Rngs(0)), {})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (partial(ConvNeXtConfig, variant="conv4d"), "unknown variant 'conv4d' of ConvNeXt: use dwconv, fft, ssm"),
        (partial(ConvNeXtConfig, timesteps=0), "timesteps is 0, expected at least 1"),
        (partial(ConvNeXtConfig, unroll="network"), "variant 'dwconv' has none: use 'block'"),
        (partial(ConvNeXtConfig, mixer_options={"rho": 0.5}), "variant 'dwconv' holds no mixer: leave mixer out"),
        (partial(ConvNeXtConfig, depths=(1, 2)), "expected one of each per stage"),
        (partial(ConvNeXtConfig, variant="fourier", pool="max"), "variant 'fourier' has no use for pool: leave it out"),
        (partial(ConvNeXtConfig, variant="full", kernel_size=5), "variant 'full' has no use for kernel_size"),
        (partial(ConvNeXtConfig, boundary="mirror"), "unknown boundary 'mirror'"),
        (partial(ViTConfig, unroll="network"), "attention has none: use 'block'"),
        (partial(ViTConfig, mixer="opponent", class_token=True), "class_token: tokens keep their grid"),
        (partial(ViTConfig, mixer="opponent", pool="token"), "there is none: use mean or max"),
        (partial(ViTConfig, embed_dim=200), "embed_dim 200 does not split into"),
        (partial(ViTConfig, mixer_options={"heads": 3}), "attention has head_dim alone"),
        (partial(ViTConfig, drop_path_schedule="cosine"), "unknown drop_path_schedule 'cosine'"),
        (partial(ViTConfig, position="cubic"), "unknown position 'cubic': use learned, mrope, none"),
    ],
)
def test_bad_configurations_are_named(make, says):
    with pytest.raises(UsageError, match=says):
        make()


def test_bad_frames_are_named():
    model = TINY["vit"].make(nnx.Rngs(0))
    with pytest.raises(ShapeError, match="frames of 36 x 32 pixels do not divide into patches of 8"):
        model(np.zeros((1, 36, 32, 3), np.float32))
    with pytest.raises(ShapeError, match="leave nothing after all stages: give at least 32 x 32"):
        TINY["convnext"].make(nnx.Rngs(0))(np.zeros((1, 31, 32, 3), np.float32))
    with pytest.raises(UsageError, match="cannot stream"):
        dataclasses.replace(TINY["vit"], mixer="transformer").make(nnx.Rngs(0)).init_state(1, (32, 32))


def test_features_and_intermediates_are_where_timm_users_look():
    model = create_model("convnext_atto", rngs=nnx.Rngs(0), num_classes=7, depths=(1, 1, 1, 1), dims=(4, 6, 8, 10))
    x = np.zeros((2, 64, 96, 3), np.float32)
    assert (model.num_features, model.reduction) == (10, 32)
    shapes = jax.eval_shape(lambda x: (model.features(x), model.intermediates(x, blocks=(0, 2))), x)
    assert [y.shape for y in (shapes[0], *shapes[1])] == [(2, 2, 3, 10), (2, 16, 24, 4), (2, 4, 6, 8)]
    model.reset_classifier(3, nnx.Rngs(1))
    assert jax.eval_shape(lambda x: model(x), x).shape == (2, 3)


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_recomputed_blocks_change_nothing(name):
    small = {"vit": {"mixer": "no_gate"}, "convnext": {"depths": (1, 1), "dims": (4, 8)}}
    config = dataclasses.replace(TINY[name], **small[name])
    build = lambda remat: made.moved(dataclasses.replace(config, remat=remat).make(nnx.Rngs(0)), 0.1)  # noqa: E731
    clip = made.clip(grid=(32, 32), channels=3, t=2)
    for x in (clip, clip[:, 0]):
        assert_close(*(made.with_gradients(lambda m, x: m(x), build(remat), x) for remat in (True, False)), 1e-5)
    remat = build(True)
    program = str(jax.make_jaxpr(lambda x: remat(x))(clip[:, 0]))
    assert program.count("checkpoint") + program.count("remat") >= 2


def test_a_network_of_frequencies_does_not_see_where_patches_are():
    """Its source's number, explained: the same patches at other places give the same logits."""
    model = made.moved(dataclasses.replace(TINY["convnext"], variant="fourier").make(nnx.Rngs(0)), 0.1)
    x = made.clip(grid=(32, 48), channels=3, t=1)[:, 0]
    patches = x.reshape(2, 8, 4, 12, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 96, 4, 4, 3)
    order = np.random.default_rng(0).permutation(96)
    moved = patches[:, order].reshape(2, 8, 12, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)
    assert_close(logits(model, moved), logits(model, x), 1e-5)
    assert float(jnp.abs(logits(model, 2 * x) - logits(model, x)).max()) > 1e-3


def test_frames_that_a_time_table_tells_apart_are_all_seen():
    """Attention within frames reads the last one alone; with a table, the last row is that of the last frame."""
    small = {"mixer": "spatial_attn", "norm": "layer", "position": "none", "stem": "pixel", "embed_dim": 8, "depth": 2}
    model = SimpleCSSMConfig(time_table=4, grid=(5, 4), **small).make(nnx.Rngs(0))
    assert not model.apart and SimpleCSSMConfig(**small).make(nnx.Rngs(0)).apart
    for block in model.stack.blocks:
        block.time_table[...] = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8)), jnp.float32)
    x = made.clip(t=4, grid=(5, 4), channels=3)
    assert_close(model.features(x), model.stack(model._embed(x))[:, -1], 1e-5)
    with pytest.raises(UsageError, match="cannot stream"):
        model.init_state(1, (5, 4))
    with pytest.raises(UsageError, match="time_table counts frames"):
        SimpleCSSMConfig(**small | {"mixer": "no_gate", "time_table": 4}).make(nnx.Rngs(0))(x, dt=jnp.ones((2, 4)))
    with pytest.raises(UsageError, match="attention looks at each alone"):
        ViTConfig(time_table=4)
    with pytest.raises(UsageError, match="no use for time_table"):
        ConvNeXtConfig(time_table=4)
