"""The laws of the mixer contract, run over every registered mixer. A new mixer is tested with no code of its own.

laws_of_facts.py holds those of what a mixer declares and refuses.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import made
from cssm.nn import MIXERS
from cssm.train.state import Blueprint, split
from specimens import (
    CHANNELS,
    CONTROLS,
    GRID,
    RECURRENT,
    TIMED,
    VARIANTS,
    B,
    T,
    assert_equal_to_frames,
    build,
    carried_state,
    clip,
    compare,
    cotangents,
    frame_by_frame,
    frames_alone,
    fresh_state,
    merged,
    pulled,
    scanned,
)
from tolerances import assert_close


@pytest.mark.parametrize("name", [*RECURRENT, *VARIANTS])
def test_1_scan_equals_step(name):
    state = carried_state(name)
    expected, cotangent, slopes = frame_by_frame(name, state, clip())
    compare(scanned(name)(state, clip(), cotangent), (expected, slopes))


@pytest.mark.parametrize("cuts", [[3, 6], pytest.param([1, 4], marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("name", [*RECURRENT, *VARIANTS])
def test_2_cutting_changes_nothing(name, cuts):
    """The gradient goes back from piece to piece through the carried state."""
    past, pieces = [carried_state(name)], np.split(clip(), cuts, 1)
    expected, (later, cotangent), (parameters, *slopes) = frame_by_frame(name, past[0], clip())
    y, back, total = [], [], jax.tree.map(np.zeros_like, parameters)
    for piece in pieces:
        (state, shown), _ = scanned(name)(past[-1], piece, jax.tree.map(np.zeros_like, (past[0], piece)))
        past.append(state)
        y.append(shown)
    for state, piece, c in reversed(list(zip(past, pieces, np.split(cotangent, cuts, 1), strict=False))):
        _, (slope, later, dx) = scanned(name)(state, piece, (later, c))
        total = jax.tree.map(np.add, total, slope)
        back.insert(0, dx)
    compare(
        ((past[-1], np.concatenate(y, 1)), (total, later, np.concatenate(back, 1))), (expected, (parameters, *slopes))
    )


@pytest.mark.parametrize("name", RECURRENT)
def test_2_reset_restarts(name):
    x, past = clip(), carried_state(name)
    reset = np.zeros((B, T), bool)
    reset[0, 4] = reset[1, 0] = True
    late = np.concatenate([x[:1, 4:], x[:1, :4]], 1)  # its first three frames count
    states, fresh = frames_alone(name, fresh_state(name), np.concatenate([late, x[1:]]))
    before = frames_alone(name, past, x)[1]

    @jax.jit
    def run(state, x):
        scan = lambda readout: merged(name).scan(state, x, reset=reset, readout=readout)  # noqa: E731
        return scan("all"), scan("last")[1], scan("mean")[1]

    (state, y), last, mean = run(past, x)
    assert_close(y[0], np.concatenate([before[:4, 0], fresh[:3, 0]]))
    assert_close(y[1], fresh[:, 1])
    assert_close(state, jax.tree.map(lambda v: np.stack([v[2, 0], v[-1, 1]]), states))
    assert_close((last, mean), (y[:, -1], y.mean(1)), 1e-5)


@pytest.mark.parametrize("name", RECURRENT)
def test_3_causality_is_exact(name):
    state, x = fresh_state(name), clip()
    for t in (1, 4):
        seen = np.zeros_like(x)
        seen[:, :t] = cotangents(seen[:, :t])
        slope = scanned(name)(state, x, (jax.tree.map(np.zeros_like, state), seen))[1][2]
        assert np.abs(slope[:, t:]).max() == 0.0
        assert np.abs(slope[:, :t]).max() > 0.0
    assert MIXERS[name].causal


def forward(name):
    """clip -> y, compiled for every shape."""
    graph, params = build(name)
    return jax.jit(lambda x: nnx.merge(graph, params)(x))


@pytest.mark.parametrize("name", RECURRENT + CONTROLS)
def test_4_batch_rows_never_mix(name):
    run, x = forward(name), clip()
    poisoned = np.concatenate([np.full_like(x[:1], np.nan), x[1:]])
    y = run(poisoned)
    assert np.isnan(y[0]).any()
    np.testing.assert_array_equal(y[1], run(x)[1])


@pytest.mark.parametrize("name", RECURRENT)
def test_5_state_is_a_fixed_point_of_step(name):
    mixer = merged(name)
    state = mixer.init_state(B, GRID)
    after, y = jax.eval_shape(mixer.step, state, clip()[:, 0])
    spec = lambda tree: jax.tree.map(lambda v: (v.shape, v.dtype), tree)  # noqa: E731
    assert spec(after) == spec(state)
    assert y.shape == (B, *GRID, CHANNELS)
    assert all(v.dtype in (jnp.float32, jnp.complex64, jnp.int32) for v in jax.tree.leaves(state))


@pytest.mark.parametrize(("t", "grid"), [(1, (1, 5)), (3, (97, 61)), (7, (5, 4))])
@pytest.mark.parametrize("name", RECURRENT + CONTROLS)
def test_5_any_grid(name, t, grid):
    if name in CONTROLS and grid == (97, 61):
        grid = (17, 13)  # attention is quadratic in the number of pixels
    y = forward(name)(clip(t, grid, batch=1))
    assert y.shape == (1, t, *grid, CHANNELS) and bool(jnp.isfinite(y).all())


@pytest.mark.parametrize("name", [*RECURRENT, *VARIANTS])
def test_6_the_state_stays_within_its_bound(name):
    """4096 frames of |x| <= 2: constant, random signs, alternating, and the signs that make the state grow fastest."""
    mixer, grid, limit = merged(name), (4, 4), 2.0
    bound = mixer.state_bound(grid, limit)
    assert np.isfinite(bound) and bound > 0

    def numbers(state):
        return [v for v in jax.tree.leaves(state) if not jnp.issubdtype(v.dtype, jnp.integer)]

    def energy(x, state):
        state = mixer.step(state, x)[0]
        return sum((v * v.conj()).real.sum() for v in numbers(state))

    def advance(carry, key):
        state, sign = carry
        chance = jax.random.rademacher(key, (*grid, CHANNELS), jnp.float32)
        flat = jnp.broadcast_to(sign, chance.shape)
        x = jnp.stack([jnp.ones_like(chance), chance, flat, chance])
        slope = jax.grad(energy)(x[3:], jax.tree.map(lambda v: v[3:], state))
        x = limit * x.at[3:].set(jnp.where(slope == 0, chance, jnp.sign(slope)))
        state = mixer.step(state, x)[0]
        return (state, -sign), jnp.stack([jnp.abs(v).max(range(1, v.ndim)) for v in numbers(state)])

    start = mixer.init_state(4, grid), jnp.ones(())
    run = jax.jit(lambda: lax.scan(advance, start, jax.random.split(jax.random.key(8), 4096))[1])
    largest = np.asarray(run())  # (4096, leaves, 4 clips)
    assert 0 < largest.max() <= bound * (1 + 1e-4)
    early, late = largest[:2048, :, 0].max(0), largest[2048:, :, 0].max(0)  # under a constant input it settles
    assert (late < 1.2 * early + 1e-3).all()


FEW = ("no_gate", "gdn", "s4", "s4nd", "transformer")
ONE_OF_EACH_KIND = [
    name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in RECURRENT + CONTROLS
]


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_6_bfloat16_gradients_are_finite(name):
    blueprint, (params, rest) = Blueprint.of(merged(name)), split(merged(name))
    params, x = blueprint.cast(params, jnp.bfloat16), clip().astype(jnp.bfloat16)
    loss = lambda p, x: blueprint.build(p, rest)(x).astype(jnp.float32).sum()  # noqa: E731
    assert jax.eval_shape(lambda p, x: blueprint.build(p, rest)(x), params, x).dtype == jnp.bfloat16
    gradients = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    assert all(bool(jnp.isfinite(g.astype(jnp.float32)).all()) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", RECURRENT + CONTROLS)
def test_6_bfloat16_rounds_activations_not_the_recurrence(name):
    """y in bfloat16 is off float32 by at most 8 times what inputs rounded at random by one part in 2^9 are.

    Rounded kernels, decays, A, B, C and steps are not: `s4nd` errs by a hundred times that.
    """
    blueprint, (params, rest) = Blueprint.of(merged(name)), split(merged(name))
    run = jax.jit(lambda p, x: blueprint.build(p, rest)(x))
    rounded = jnp.asarray(clip(48)).astype(jnp.bfloat16)
    x = np.asarray(rounded, np.float32)
    noise = 1 + 2.0**-9 * np.random.default_rng(0).uniform(-1, 1, x.shape)
    y = run(params, x)
    error = lambda other: float(jnp.sqrt(jnp.square(other.astype(jnp.float32) - y).mean()))  # noqa: E731
    explained = error(run(params, (x * noise).astype(np.float32)))
    assert error(run(blueprint.cast(params, jnp.bfloat16), rounded)) <= 8 * explained


@pytest.mark.parametrize("size", [0, 30, 1e3, 1e5])
@pytest.mark.parametrize("name", RECURRENT)
def test_6_gradients_are_finite_at_any_size(name, size):
    """Gates shut, decays underflow: no slope is 0/0."""
    state, x = carried_state(name), (size * clip()).astype(np.float32)
    outputs = jax.eval_shape(lambda s, v: merged(name).scan(s, v), state, x)
    run = scanned(name)(state, x, cotangents(outputs))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run))


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("name", [*RECURRENT, *VARIANTS])
def test_7_readouts_equal_the_plain_path(name, readout):
    assert_equal_to_frames(name, lambda m, s, x: m.scan(s, x, readout=readout), clip(), readout=readout)


ONE_FRAME, MANY_FRAMES = (
    pytest.param(1, "last", marks=pytest.mark.slow),
    pytest.param(7, "mean", marks=pytest.mark.slow),
)


@pytest.mark.parametrize(("steps", "readout"), [ONE_FRAME, (2, "mean"), (7, "last"), MANY_FRAMES])
@pytest.mark.parametrize("name", [*RECURRENT, *VARIANTS])
def test_7_static_equals_the_repeated_frame(name, steps, readout):
    state, frame = carried_state(name), clip()[:, 0]
    repeated = np.repeat(frame[:, None], steps, 1)
    expected, cotangent, (parameters, past, slope) = frame_by_frame(name, state, repeated, readout=readout)
    static = pulled(name, lambda m, s, x: m.static(s, x, steps, readout=readout))
    compare(static(state, frame, cotangent), (expected, (parameters, past, slope.sum(1))))


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in RECURRENT])
def test_7_static_holds_for_many_frames(name):
    @jax.jit
    def run(state, frame):
        mixer, repeated = merged(name), jnp.repeat(frame[:, None], 50, 1)
        readouts = ("last", "mean")
        once = [mixer.static(state, frame, 50, readout=readout) for readout in readouts]
        return once, [mixer.scan(state, repeated, readout=readout) for readout in readouts]

    assert_close(*run(carried_state(name), clip()[:, 0]), 5e-6)


@pytest.mark.parametrize("readout", ["all", "last", "mean"])
@pytest.mark.parametrize("name", [n for n in RECURRENT if MIXERS[n].pools])
def test_7_pooled_equals_the_mean_over_space(name, readout):
    state, x = carried_state(name), clip()
    seen = lambda result: (jax.tree.map(np.zeros_like, result[0]), cotangents(result[1]))  # noqa: E731
    (_, shown), (_, cotangent), slopes = frame_by_frame(name, state, x, seen=seen, readout=readout, pooled=True)
    pooled = pulled(name, lambda m, s, x: m.pooled(s, x, readout=readout))
    compare(pooled(state, x, cotangent), (shown, slopes))


LIFTS = [n for n in RECURRENT if MIXERS[n].takes_lift]


@pytest.mark.parametrize("readout", ["all", "last", "mean"])
@pytest.mark.parametrize("name", LIFTS)
def test_7_lifted_input_of_a_long_clip(name, readout):
    """Against `scan`: the last frame of a long clip is a sum over many."""
    state, inputs = carried_state(name), (clip(37)[..., :3], clip()[0, 0, 0, :3])
    fast = pulled(name, lambda m, s, xw: m.scan(s, xw[0], readout=readout, lift=xw[1]))
    plain = pulled(name, lambda m, s, xw: m.scan(s, xw[0] @ xw[1], readout=readout))
    cotangent = cotangents((state, clip(37) if readout == "all" else clip()[:, 0]))
    compare(fast(state, inputs, cotangent), plain(state, inputs, cotangent))


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("readout", ["all", "last", "mean"])
@pytest.mark.parametrize("name", LIFTS)
def test_7_lifted_input_equals_lifting_first(name, readout, steps):
    state, x, lift = carried_state(name), clip(steps)[..., :3], clip()[0, 0, 0, :3]  # 3 by CHANNELS
    expected, cotangent, (parameters, past, slope) = frame_by_frame(name, state, x @ lift, readout=readout)
    lifted = pulled(name, lambda m, s, xw: m.scan(s, xw[0], readout=readout, lift=xw[1]))
    slopes = slope @ lift.T, np.einsum("bthwr,bthwc->rc", x, slope)
    compare(lifted(state, (x, lift), cotangent), (expected, (parameters, past, slopes)))


def without_bias(params):
    """A frame of zeros then writes nothing."""
    return jax.tree.map_with_path(
        lambda path, p: jnp.zeros_like(p) if "bias" in jax.tree_util.keystr(path) else p, params
    )


@pytest.mark.parametrize("name", [*TIMED, *(v for v, (name, _) in VARIANTS.items() if name in TIMED)])
def test_8_a_double_step_equals_an_empty_frame_between(name):
    state, x, params = carried_state(name), clip(4), without_bias(build(name)[1])
    dt, shown = np.ones((B, 4), np.float32), [0, 1, 3, 4]
    dt[:, 2] = 2
    expected, cotangent, slopes = frame_by_frame(name, state, np.insert(x, 2, 0, 1), frames=shown, params=params)
    double = pulled(name, lambda m, s, x: m.scan(s, x, dt=dt))
    compare(double(state, x, cotangent, params), (expected, slopes))


@pytest.mark.parametrize("name", TIMED)
def test_8_unit_steps_are_the_default(name):
    """Bit for bit where they are known, and by the power of the transition where they are not."""
    state, x, units = carried_state(name), jnp.asarray(clip(3)), np.ones((B, 3))
    run = jax.jit(lambda: merged(name).scan(state, x))
    known = jax.jit(lambda: merged(name).scan(state, x, dt=units))
    jax.tree.map(np.testing.assert_array_equal, known(), run())
    traced = jax.jit(lambda dt: merged(name).scan(state, x, dt=dt))
    assert_close(traced(units), run())


@pytest.mark.parametrize("name", TIMED)
def test_8_scan_equals_step_at_irregular_times(name):
    state, x = carried_state(name), clip(3)
    dt = jnp.array([[0.3, 1, 2.5], [1.7, 0.01, 1]])
    reset = jnp.zeros((B, 3), bool).at[1, 1].set(True)

    def plain(mixer, state, xdt):
        def step(state, now):
            x, dt, reset = now
            clear = lambda v, z: jnp.where(reset.reshape(-1, *(1,) * (v.ndim - 1)), z, v)  # noqa: E731
            return mixer.step(jax.tree.map(clear, state, mixer.init_state(B, GRID)), x, dt=dt)

        state, y = lax.scan(step, state, (jnp.moveaxis(xdt[0], 1, 0), xdt[1].T, reset.T))
        return state, jnp.moveaxis(y, 0, 1)

    cotangent = cotangents((state, x))
    fast = pulled(name, lambda m, s, xdt: m.scan(s, xdt[0], dt=xdt[1], reset=reset))(state, (x, dt), cotangent)
    compare(fast, pulled(name, plain)(state, (x, dt), cotangent))

    @jax.jit
    def shown(x):
        scan = lambda readout: merged(name).scan(state, x, dt=dt, reset=reset, readout=readout)[1]  # noqa: E731
        return scan("last"), scan("mean")

    y = fast[0][1]
    assert_close(shown(x), (y[:, -1], y.mean(1)), 1e-5)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_9_trained_at_one_resolution_it_runs_at_another(name):
    """Two steps down the gradient at 16 x 16, then 24 x 20 with the same parameters."""
    mixer = made.mixer(name, CHANNELS, grid=(16, 16))
    graph, params = nnx.split(mixer)
    x = jnp.asarray(clip(2, (16, 16), batch=1))

    def loss(params):
        return jnp.square(x + nnx.merge(graph, params)(x) - jnp.roll(x, 1, 2)).mean()

    @jax.jit
    def descend(params):
        value, slope = jax.value_and_grad(loss)(params)
        norm = jnp.sqrt(sum(jnp.square(g).sum() for g in jax.tree.leaves(slope)))
        return value, jax.tree.map(lambda p, g: p - 0.01 * g / norm, params, slope)

    first, trained = descend(params)
    second, trained = descend(trained)
    assert float(second) < float(first)
    larger = jnp.asarray(clip(2, (24, 20), batch=1))
    run = jax.jit(lambda params: nnx.merge(graph, params)(larger))
    before, after = run(params), run(trained)
    assert after.shape == larger.shape and bool(jnp.isfinite(after).all())
    assert float(jnp.abs(after - before).max()) > 0
