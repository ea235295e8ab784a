import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import made
from cssm.core.errors import ShapeError, UnknownNameError, UsageError
from cssm.nn.layer import require_streaming
from cssm.nn.parts.norm import NORMS, ChannelNorm, create_norm
from cssm.nn.parts.position import Time, interpolate_table, rotary_angles, rotate
from tolerances import assert_close


def clip(t=5):
    return 3 + 2 * made.clip(t=t, grid=(4, 3), channels=6)


def moved(name):
    """A norm with scale and bias that are not 1 and 0."""
    norm = create_norm(name, 6)
    if name != "none":
        norm.affine.scale[...] = 1 + jnp.arange(6.0)
        norm.affine.bias[...] = jnp.arange(6.0) - 2
    return norm


@pytest.mark.parametrize(("name", "axes"), [("layer", (-1,)), ("global_layer", (1, 2, 3, 4))])
def test_statistics_are_over_the_axes_that_the_name_says(x64, name, axes):
    x = np.asarray(clip(), np.float64)
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    expected = (x - mean) / np.sqrt(variance + 1e-6) * (1 + np.arange(6.0)) + np.arange(6.0) - 2
    np.testing.assert_allclose(moved(name)(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ratio", [1, 1e3, 1e4])
@pytest.mark.parametrize("name", [*NORMS.names(), "channels"])
def test_a_mean_far_from_zero_costs_no_digits(x64, name, ratio):
    """In float32 against the formula in float64, values and gradients, at a mean of `ratio` deviations."""
    norm = ChannelNorm(6, rngs=nnx.Rngs(0)) if name == "channels" else create_norm(name, 6)
    x = np.asarray(ratio + made.clip(t=5, grid=(8, 6), channels=6), np.float32)
    axes = {"layer": -1, "channels": -1}.get(name, (1, 2, 3, 4))

    def expected(x):
        if name == "none":
            return x
        frames = range(1, 6) if name == "global_layer_causal" else [5]
        seen = [(x[:, :t].mean(axes, keepdims=True), x[:, :t].var(axes, keepdims=True)) for t in frames]
        mean, variance = (jnp.concatenate(v, 1) for v in zip(*seen, strict=True))
        return (x - mean) / jnp.sqrt(variance + 1e-6)

    both = lambda f: jax.jit(lambda x: (f(x), jax.grad(lambda x: made.weighted(f(x)))(x)))  # noqa: E731
    assert_close(both(norm)(jnp.asarray(x)), both(expected)(jnp.asarray(x, jnp.float64)), 3e-6)


@pytest.mark.slow
def test_a_jump_of_the_mean_is_part_of_the_running_variance(x64):
    """Ten dark frames, then ten bright ones, in pieces and at once, against float64."""
    norm = create_norm("global_layer_causal", 2)
    x = np.array(made.clip(t=20, grid=(4, 4), channels=2), np.float64)
    x[:, 10:] += 1000
    expected = np.stack(
        [
            (x[:, t] - x[:, : t + 1].mean((1, 2, 3, 4), keepdims=True)[:, 0])
            / np.sqrt(x[:, : t + 1].var((1, 2, 3, 4), keepdims=True)[:, 0] + 1e-6)
            for t in range(20)
        ],
        1,
    )
    single = jnp.asarray(x, jnp.float32)
    assert_close(norm(single), expected, 3e-5)
    state, first = norm.scan(norm.init_state(2, (4, 4)), single[:, :13])
    assert_close(jnp.concatenate([first, norm.scan(state, single[:, 13:])[1]], 1), expected, 3e-5)


def test_causal_norm_uses_the_frames_so_far():
    norm, joint, x = moved("global_layer_causal"), moved("global_layer"), clip()
    for t in range(x.shape[1]):
        assert_close(norm(x)[:, t], joint(x[:, : t + 1])[:, t], 1e-5)


@pytest.mark.parametrize("name", [n for n in NORMS.names() if NORMS[n].causal])
def test_chunks_and_steps_equal_the_whole(name):
    norm, x = moved(name), clip()
    state, first = norm.scan(norm.init_state(2, (4, 3)), x[:, :2])
    state, second = norm.scan(state, x[:, 2:4])
    state, third = norm.step(state, x[:, 4])
    assert_close(jnp.concatenate([first, second, third[:, None]], 1), norm(x), 1e-5)


@pytest.mark.parametrize("name", NORMS.names())
def test_one_that_is_causal_streams_and_sees_no_later_frame(name):
    norm, x = moved(name), clip()
    later = x.at[:, 3:].add(jnp.arange(6.0))
    unmoved = bool((norm(x)[:, :3] == norm(later)[:, :3]).all())
    assert unmoved == norm.causal
    if norm.causal:
        require_streaming(norm, name)
    else:
        with pytest.raises(UsageError, match=f"norm {name!r} looks at the whole clip and cannot stream: use global_"):
            require_streaming(norm, name)


def test_a_state_of_another_batch_is_refused():
    norm, x = moved("global_layer_causal"), clip()
    for call in (lambda s: norm.scan(s, x), lambda s: norm.step(s, x[:, 0])):
        with pytest.raises(ShapeError, match=r"state shapes \[\(1,\), \(1, 2\), \(1, 2\)\] do not fit"):
            call(norm.init_state(1, (4, 3)))


@pytest.mark.parametrize("name", NORMS.names())
def test_repeating_a_frame_does_not_change_its_norm(name):
    x = clip(1)
    repeated = jnp.broadcast_to(x, (2, 7, 4, 3, 6))
    assert_close(moved(name).static(x[:, 0]), moved(name)(repeated)[:, -1], 1e-5)


def test_unknown_norm_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'global_layer'"):
        create_norm("global_layr", 4)


def test_rotary_angles_split_the_pairs_between_time_height_and_width():
    angles = rotary_angles(3, 4, 5, 14)  # 7 pairs: 2 time, 2 height, 3 width
    frequency = 10000.0 ** (-2.0 * np.arange(7) / 14)
    t, y, x = np.meshgrid(np.arange(3), np.arange(4), np.arange(5), indexing="ij")
    position = np.stack([t, t, y, y, x, x, x], -1)
    np.testing.assert_allclose(angles, position * frequency, rtol=1e-6)


def test_rotation_keeps_norms_and_products_depend_on_differences_alone():
    q, k = jax.random.normal(jax.random.key(1), (2, 8))
    angles = rotary_angles(6, 1, 1, 8)[:, 0, 0]
    turned_q, turned_k = rotate(jnp.tile(q, (6, 1)), angles), rotate(jnp.tile(k, (6, 1)), angles)
    np.testing.assert_allclose(jnp.linalg.norm(turned_q, axis=-1), jnp.linalg.norm(q), rtol=1e-5)
    products = turned_q @ turned_k.T
    np.testing.assert_allclose(jnp.diag(products, 2), products[0, 2], rtol=1e-4)


def test_a_later_start_continues_the_angles():
    assert_close(rotary_angles(2, 2, 2, 12, times=jnp.arange(3, 5)), rotary_angles(5, 2, 2, 12)[3:], 1e-6)


def test_angles_are_right_after_any_number_of_frames():
    """float32 holds 2^24 frames; 10^9 of them and a half have the phase of float64."""
    frequency = 10000.0 ** (-np.arange(4) / 12.0)
    time = Time(jnp.array([0, 2**24 + 1, 10**9]), jnp.array([0, 0, 2**29]))
    exact = np.array([0.0, 2**24 + 1, 10**9 + 0.5])[:, None] * frequency
    found = np.asarray(time.angles(frequency), np.float64)
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * exact), atol=3e-6)


def test_steps_of_any_length_add_up_exactly():
    steps = jnp.asarray(np.random.default_rng(0).choice([0.1, 0.25, 1, 2.75, 300.5], (2, 900)), jnp.float32)
    whole, pieces = Time.zero(2).after(steps), Time.zero(2)
    for part in jnp.split(steps, 9, 1):
        pieces = pieces.after(part)
    exact = np.asarray(steps, np.float64).sum(1)
    for time in (whole, pieces):
        np.testing.assert_allclose(np.float64(time.frames) + np.float64(time.parts) / 2**30, exact, atol=1e-7)


def test_odd_channels_are_refused():
    with pytest.raises(ShapeError, match="7 is odd"):
        rotary_angles(1, 1, 1, 7)


def test_a_table_is_itself_on_its_own_grid_and_smooth_elsewhere():
    table = jnp.arange(12.0).reshape(3, 4, 1)
    assert interpolate_table(table, (3, 4)) is table
    assert interpolate_table(table, (6, 8)).shape == (6, 8, 1)
    np.testing.assert_allclose(interpolate_table(jnp.ones((3, 4, 1)), (5, 7)), 1.0, rtol=1e-6)
