"""Blocks, stacks of them, and the small parts they are made of."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import made
from cssm.core.errors import ShapeError, UnknownNameError, UsageError
from cssm.nn.block import Block
from cssm.nn.parts.drop_path import drop_path
from cssm.nn.parts.mlp import MLP
from cssm.nn.parts.stem import STEMS, create_stem
from cssm.nn.stack import Stack
from tolerances import assert_close

GRID = (7, 6)


def build(mixer="no_gate", seed=0, **options):
    return Block(mixer, 8, grid=GRID, rngs=nnx.Rngs(seed), **options)


clip = partial(made.clip, t=3, grid=GRID, channels=8)


def run(module, *args, **options):
    return jax.jit(lambda module, *args: module(*args, **options))(module, *args)


def test_drop_path_zeroes_whole_samples_and_divides_the_others_by_what_is_kept():
    y = clip(batch=64)
    dropped = drop_path(y, 0.25, jax.random.key(0))
    ratio = np.asarray(dropped / y).reshape(64, -1)
    kept = ratio.any(1)
    assert 8 <= 64 - kept.sum() <= 26  # 16 expected
    np.testing.assert_allclose(ratio, np.where(kept, 4 / 3, 0)[:, None] * np.ones_like(ratio), rtol=1e-6)
    assert drop_path(y, 0.25) is y and drop_path(y, 0.0, jax.random.key(0)) is y


@pytest.mark.parametrize("trunk", ["input", "normalised"])
def test_a_dropped_branch_leaves_the_trunk_alone(trunk):
    """One draw a sample, the same for all frames: x, or x + branch / (1 - p)."""
    block, x = build(trunk=trunk, drop_path=0.25), clip(batch=16)
    alone = block.norm(x) if trunk == "normalised" else x
    branch = run(block, x) - alone
    got = run(block, x, key=jax.random.key(2))
    dropped = np.isclose(got, alone, atol=1e-6).all((1, 2, 3, 4))
    assert 0 < dropped.sum() < 16
    keep = jnp.where(dropped, 0, 4 / 3).reshape(-1, 1, 1, 1, 1)
    assert_close(got, alone + keep * branch, 1e-5)


def test_both_branches_are_dropped_by_draws_of_their_own():
    block, x = build(drop_path=0.5, mlp_ratio=2.0), clip(t=1, batch=64)
    without = build(drop_path=0.5)  # the same parameters up to the MLP
    outputs = run(block, x, key=jax.random.key(0))
    mixer_dropped = np.isclose(run(without, x, key=jax.random.key(0)), x, atol=1e-6).all((1, 2, 3, 4))
    both_dropped = np.isclose(outputs, x, atol=1e-6).all((1, 2, 3, 4))
    assert 0 < both_dropped.sum() < mixer_dropped.sum()


def test_layer_scale_multiplies_what_is_added():
    x = clip()
    for options in ({}, {"mlp_ratio": 2.0}):
        assert_close(run(build(layer_scale=0.0, **options), x), x)
    y = run(build(), x) - x
    assert_close(run(build(layer_scale=0.5), x), x + 0.5 * y, 1e-5)


def test_mlp_is_exact_gelu():
    mlp, x = MLP(8, 4.0, rngs=nnx.Rngs(0)), clip()
    hidden = x @ mlp.up.kernel[...] + mlp.up.bias[...]
    exact = hidden * (1 + jax.lax.erf(hidden / jnp.sqrt(2.0))) / 2
    assert_close(mlp(x), exact @ mlp.down.kernel[...] + mlp.down.bias[...], 1e-6)


@pytest.mark.parametrize("mixer", ["no_gate", "mingru", pytest.param("spatial_attn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [{}, {"mlp_ratio": 2.0, "stride": 2, "act": "gelu", "trunk": "normalised"}])
def test_every_readout_of_a_block_is_one_of_its_frames(mixer, options):
    block, x = build(mixer, **options), clip()

    @jax.jit
    def outputs(block, x):
        repeated, readouts = jnp.repeat(x[:, :1], 4, 1), ("all", "last", "mean")
        clips = [(block(x, readout=r), block.pooled(x, readout=r)) for r in readouts]
        stills = [(block.static(x[:, 0], 4, readout=r), block(repeated, readout=r)) for r in readouts]
        return clips, stills

    clips, stills = outputs(block, x)
    y = clips[0][0]
    pooled = [y.mean((1, 2, 3)), y[:, -1].mean((1, 2)), y.mean((1, 2, 3))]
    assert_close(clips, list(zip((y, y[:, -1], y.mean(1)), pooled, strict=True)), 1e-5)
    for still, repeated in stills:
        assert_close(still, repeated, 1e-5)


def test_a_stack_by_block_passes_on_the_last_frame_of_each():
    blocks = [build(seed=i, mlp_ratio=1.0, stride=s) for i, s in enumerate((1, 2))]
    x = clip(t=1)[:, 0]
    expected = x
    for block in blocks:
        expected = run(block, jnp.repeat(expected[:, None], 5, 1), readout="last")
    actual = jax.jit(lambda s, x: s.static(x, 5, unroll="block"))(Stack(blocks), x)
    assert_close(actual, expected, 1e-5)


def test_blocks_of_a_stack_draw_on_their_own():
    stack, x = Stack([build(seed=i, drop_path=0.5) for i in (0, 1)]), clip(t=1, batch=32)
    first, last = jax.jit(lambda s, x: s.intermediates(x, key=jax.random.key(0)))(stack, x)
    dropped = [np.isclose(a, b, atol=1e-6).all((1, 2, 3, 4)) for a, b in ((first, x), (last, first))]
    assert dropped[0].any() and dropped[1].any() and (dropped[0] != dropped[1]).any()


def test_channels_and_grid_change_where_a_block_downsamples():
    block = Block("no_gate", 12, grid=GRID, in_channels=8, stride=3, rngs=nnx.Rngs(0))
    assert run(block, clip()).shape == (2, 3, 3, 2, 12)
    assert block.grid(GRID) == (3, 2) and Stack([block]).layers(GRID)[0].grid == (3, 2)
    wider = Block("no_gate", 12, grid=GRID, in_channels=8, rngs=nnx.Rngs(0))
    assert run(wider, clip()).shape == (2, 3, *GRID, 12)


STEM_OPTIONS = {"conv": {"layers": 1}, "default": {"layers": 1}, "patch": {"patch_size": 3}}


@pytest.mark.parametrize("name", STEMS.names())
def test_a_stem_takes_frames_and_clips_of_any_size(name):
    stem, x = create_stem(name, 3, 8, rngs=nnx.Rngs(0), **STEM_OPTIONS.get(name, {})), clip(channels=3)
    y = run(stem, x)
    assert y.shape == (2, 3, *stem.grid(GRID), 8)
    assert_close(run(stem, x[:, 1]), y[:, 1])
    if stem.affine_in_pixels:
        ones = jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1))], -1)
        assert_close(ones @ stem.affine(), y, 1e-6)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: build(trunk="both"), UsageError, "unknown trunk 'both': use input or normalised"),
        (lambda: build(drop_path=1.0), UsageError, "drop_path is 1.0"),
        (lambda: build(mlp_ratio=-1.0), UsageError, "mlp_ratio is -1.0"),
        (lambda: build(norm="batch"), UnknownNameError, "global_layer"),
        (lambda: build("transformer").init_state(2, GRID), UsageError, "'transformer' is not recurrent"),
        (lambda: build("gated")(clip(), dt=jnp.ones((2, 3))), UsageError, "cannot honour dt"),
        (lambda: build("spatial_attn")(clip(), dt=jnp.ones((2, 3))), UsageError, "cannot honour dt"),
        (lambda: build("spatial_attn")(clip(), readout="first"), UsageError, "unknown readout 'first'"),
        (lambda: Stack([]), UsageError, "zero blocks"),
        (lambda: Stack([build()]).intermediates(clip(), (-2,)), UsageError, "no block -2"),
        (lambda: create_stem("patch", 3, 8, layers=2, rngs=nnx.Rngs(0)), UsageError, "cannot honour layers"),
        (lambda: create_stem("patch", 3, 8, rngs=nnx.Rngs(0)).affine(), UsageError, "use stem pixel"),
        (lambda: create_stem("patch", 3, 8, rngs=nnx.Rngs(0))(jnp.ones((1, 3, 9, 3))), ShapeError, "at least 4x4x3"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


TIMED = {"no_gate": {}, "transformer": {}, "mingru": {"mlp_ratio": 2.0}, "no_gate, normalised": {"trunk": "normalised"}}


@pytest.mark.parametrize("name", [*TIMED])
def test_a_time_table_is_added_to_what_the_mixer_sees_and_to_nothing_else(name):
    mixer = name.partition(",")[0]
    block, plain = (build(mixer, time_table=rows, **TIMED[name]) for rows in (3, None))
    x = clip()
    assert_close(run(block, x), run(plain, x), 1e-6)  # zero at first
    table = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)), jnp.float32)
    block.time_table[...] = table
    seen = block.norm(x)
    trunk = seen if block.trunk == "normalised" else x
    want = block._leave(trunk, block.mixer(seen + table[:, None, None]))
    assert_close(run(block, x), want, 1e-5)
    assert_close(run(block, x, readout="last"), want[:, -1], 1e-5)
    still = jnp.broadcast_to(x[:, :1], x.shape)
    static = jax.jit(lambda block, x: (block.static(x, 3), block.static(x, 3, readout="all")))(block, x[:, 0])
    repeated = run(block, still)
    assert_close(static[0], repeated[:, -1], 1e-5)
    assert_close(static[1], repeated, 1e-5)
    assert not block.frame_wise and not block.lifts("last")
    with pytest.raises(UsageError, match="time_table is over the frames of a whole clip"):
        block.init_state(1, GRID)


def test_a_time_table_is_resampled_to_the_clip():
    block = build(time_table=5)
    block.time_table[...] = jnp.arange(5.0)[:, None] * jnp.ones(8)
    rows = block._timed(jnp.zeros((1, 9, 1, 1, 8)))[0, :, 0, 0, 0]
    places = (np.arange(9) + 0.5) * 5 / 9 - 0.5  # pixel centres
    np.testing.assert_allclose(rows, np.clip(places, 0, 4), atol=1e-5)
    with pytest.raises(UsageError, match="expected at least 1 row"):
        build(time_table=0)
