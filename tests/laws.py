"""The laws of the mixer contract, run over every registered mixer. A new mixer is tested with no code of its own."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from cssm.core.errors import ShapeError, UsageError
from cssm.nn import MIXERS, Control, Mixer, create_mixer
from cssm.nn.mixer import SpatiallyPooled, repeat_frame, require_dt, takes_dt
from selection import QUICK, everyday
from tolerances import assert_close

RECURRENT = [name for name in MIXERS.names() if issubclass(MIXERS[name], Mixer)]
CONTROLS = [name for name in MIXERS.names() if issubclass(MIXERS[name], Control)]
VARIANTS = {"no_gate, zero boundary": ("no_gate", {"boundary": "zero", "margin": 3})}  # options that change the path
TIMED = [name for name in RECURRENT if takes_dt(MIXERS[name])]
CHANNELS = 8
B, T, GRID = 2, 7, (6, 9)
GRADIENT_LIMIT = 2e-5  # float32 sums over all pixels and frames


def build(name, seed=0):
    """A mixer whose parameters have been moved away from their initial values."""
    name, options = VARIANTS.get(name, (name, {}))
    mixer = create_mixer(name, channels=CHANNELS, grid=GRID, rngs=nnx.Rngs(seed), **options)
    graph, params = nnx.split(mixer)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    leaves = [p + 0.2 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return graph, jax.tree.unflatten(tree, leaves)


def clip(t=T, grid=GRID, seed=2, batch=B):
    return jax.random.normal(jax.random.key(seed), (batch, t, *grid, CHANNELS))


def carried_state(graph, params, grid=GRID):
    """A state with a past."""

    def past(params):
        mixer = nnx.merge(graph, params)
        return mixer.scan(mixer.init_state(B, grid), clip(3, grid, seed=5))[0]

    return jax.jit(past)(params)


def compiled(name):
    """clip -> y, under jit."""
    graph, params = build(name)
    return jax.jit(lambda x: nnx.merge(graph, params)(x))


def by_step(mixer, state, x):
    state, y = lax.scan(mixer.step, state, jnp.moveaxis(x, 1, 0))
    return state, jnp.moveaxis(y, 0, 1)


def weighted(tree):
    """A real number that depends on every output."""
    total = 0.0
    for leaf in jax.tree.leaves(tree):
        weight = jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape)
        total += (
            jnp.sum(weight * leaf.real)
            + jnp.sum(jnp.sin(3 * weight) * leaf.imag)
            + 0.1 * (leaf * leaf.conj()).real.sum()
        )
    return total


def same_with_gradients(graph, params, state, x, fast, plain):
    """fast and plain take (mixer, state, x): equal values, and equal gradients to parameters, state and input."""

    def run(function):
        call = lambda p, s, v: function(nnx.merge(graph, p), s, v)  # noqa: E731
        return call(params, state, x), jax.grad(lambda *a: weighted(call(*a)), (0, 1, 2), allow_int=True)(
            params, state, x
        )

    (value, gradient), (expected, expected_gradient) = jax.jit(lambda: (run(fast), run(plain)))()
    assert_close(value, expected, what="values")
    assert_close(gradient, expected_gradient, GRADIENT_LIMIT, what="gradients")


@pytest.mark.parametrize("name", [*RECURRENT, *VARIANTS])
def test_1_scan_equals_step(name):
    graph, params = build(name)
    state = carried_state(graph, params)
    same_with_gradients(graph, params, state, clip(), lambda m, s, x: m.scan(s, x), by_step)


@pytest.mark.parametrize(("name", "cuts"), everyday([*RECURRENT, *VARIANTS], [([3],), ([1, 2],), ([6],)], few=[]))
def test_2_cutting_changes_nothing(name, cuts):
    graph, params = build(name)

    def in_pieces(mixer, state, x):
        outputs = []
        for piece in jnp.split(x, cuts, 1):
            state, y = mixer.scan(state, piece)
            outputs.append(y)
        return state, jnp.concatenate(outputs, 1)

    same_with_gradients(graph, params, carried_state(graph, params), clip(), in_pieces, lambda m, s, x: m.scan(s, x))


@pytest.mark.parametrize(("name", "readout"), everyday(RECURRENT, [("all",), ("last",), ("mean",)], few=[]))
def test_2_reset_restarts(name, readout):
    graph, params = build(name)
    reset = jnp.zeros((B, T), bool).at[0, 4].set(True).at[1, 0].set(True)

    @jax.jit
    def run(params, x):
        mixer, past = nnx.merge(graph, params), carried_state(graph, params)
        fresh = lambda row, start: mixer.scan(mixer.init_state(1, GRID), x[row : row + 1, start:])  # noqa: E731
        shown = mixer.scan(past, x, reset=reset, readout=readout)[1]
        return *mixer.scan(past, x, reset=reset), fresh(0, 4), fresh(1, 0), shown

    state, y, late, whole, shown = run(params, clip())
    assert_close(y[0, 4:], late[1][0])
    assert_close(y[1], whole[1][0])
    assert_close(jax.tree.map(lambda v: v[1:], state), whole[0])
    assert_close(shown, {"all": y, "last": y[:, -1], "mean": y.mean(1)}[readout], 1e-5)


@pytest.mark.parametrize(("name",), everyday(RECURRENT, [()], few=[]))
def test_3_causality_is_exact(name):
    graph, params = build(name)
    for t in (1, 4):
        slope = jax.jit(jax.grad(lambda x: weighted(nnx.merge(graph, params)(x)[:, :t])))(clip())  # noqa: B023
        assert float(jnp.abs(slope[:, t:]).max()) == 0.0
        assert float(jnp.abs(slope[:, :t]).max()) > 0.0
    assert MIXERS[name].causal


@pytest.mark.parametrize("name", RECURRENT + CONTROLS)
def test_4_batch_rows_never_mix(name):
    run, x = compiled(name), clip()
    poisoned = run(x.at[0].set(jnp.nan))
    assert bool(jnp.isnan(poisoned[0]).any())
    np.testing.assert_array_equal(poisoned[1], run(x)[1])


@pytest.mark.parametrize("name", RECURRENT)
def test_5_state_is_a_fixed_point_of_step(name):
    mixer = nnx.merge(*build(name))
    state = mixer.init_state(B, GRID)
    after, y = jax.eval_shape(mixer.step, state, clip()[:, 0])
    spec = lambda tree: jax.tree.map(lambda v: (v.shape, v.dtype), tree)  # noqa: E731
    assert spec(after) == spec(state)
    assert y.shape == (B, *GRID, CHANNELS)
    assert all(v.dtype in (jnp.float32, jnp.complex64, jnp.int32) for v in jax.tree.leaves(state))


@pytest.mark.parametrize("name", RECURRENT)
def test_5_a_state_of_another_batch_or_grid_is_refused(name):
    mixer, frame = nnx.merge(*build(name)), clip()[:, 0]
    shapes = lambda s: [v.shape for v in jax.tree.leaves(s)]  # noqa: E731
    states = [mixer.init_state(1, GRID), mixer.init_state(B, (1, 1))]
    if shapes(states[1]) == shapes(mixer.init_state(B, GRID)):  # a state over tokens is the same for every grid
        del states[1]
    for state in states:
        for call in (
            lambda s: mixer.step(s, frame),
            lambda s: mixer.scan(s, clip()),
            lambda s: mixer.static(s, frame, 2),
        ):
            with pytest.raises(ShapeError, match="state"):
                call(state)


@pytest.mark.parametrize(
    ("name", "t", "grid"),
    everyday(RECURRENT + CONTROLS, [(1, (1, 5)), (3, (97, 61)), (7, (5, 4))], few=[]),
)
def test_5_any_grid(name, t, grid):
    if name in CONTROLS and grid == (97, 61):
        grid = (17, 13)  # attention is quadratic in the number of pixels
    y = compiled(name)(clip(t, grid, batch=1))
    assert y.shape == (1, t, *grid, CHANNELS) and bool(jnp.isfinite(y).all())


@pytest.mark.parametrize(("name",), everyday(RECURRENT, [()], few=[]))
def test_6_bounded_for_4096_frames(name):
    mixer = nnx.merge(*build(name))
    frame = clip(1, (4, 4))[:, 0]
    one_step = jax.jit(lambda s, _: (mixer.step(s, frame)[0], None))
    state = lax.scan(one_step, mixer.init_state(B, (4, 4)), length=4096)[0]
    later = lax.scan(one_step, state, length=4096)[0]
    for early, late in zip(jax.tree.leaves(state), jax.tree.leaves(later), strict=True):
        assert bool(jnp.isfinite(late).all())
        assert float(jnp.abs(late).max()) < 1.2 * float(jnp.abs(early).max()) + 1e-3


@pytest.mark.parametrize(("name",), everyday([*RECURRENT, *VARIANTS], [()], few=[]))
def test_6_the_state_stays_within_its_bound(name):
    """4096 frames of |x| <= 2: constant, random signs, alternating, and the signs that make the state grow fastest."""
    mixer, grid, limit = nnx.merge(*build(name)), (4, 4), 2.0
    bound = mixer.state_bound(grid, limit)
    assert np.isfinite(bound) and bound > 0

    def numbers(state):
        return [v for v in jax.tree.leaves(state) if not jnp.issubdtype(v.dtype, jnp.integer)]

    def energy(x, state):
        return sum((v * v.conj()).real.sum() for v in numbers(mixer.step(state, x)[0]))

    def advance(carry, key):
        state, largest, sign = carry
        chance = jax.random.rademacher(key, (*grid, CHANNELS), jnp.float32)
        flat = jnp.broadcast_to(sign, chance.shape)
        x = jnp.stack([jnp.ones_like(chance), chance, flat, chance])
        slope = jax.grad(energy)(x, state)[3]
        x = limit * x.at[3].set(jnp.where(slope == 0, chance, jnp.sign(slope)))
        state = mixer.step(state, x)[0]
        return (state, jnp.maximum(largest, max_entry(numbers(state))), -sign), None

    def max_entry(leaves):
        return jnp.stack([jnp.abs(v).max() for v in leaves]).max()

    start = mixer.init_state(4, grid), jnp.zeros(()), jnp.ones(())
    run = jax.jit(lambda: lax.scan(advance, start, jax.random.split(jax.random.key(8), 4096))[0][1])
    assert 0 < float(run()) <= bound * (1 + 1e-4)


@pytest.mark.parametrize(("name",), everyday(RECURRENT + CONTROLS, [()], few=[]))
def test_6_bfloat16_gradients_are_finite(name):
    graph, params = build(name)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    x = clip().astype(jnp.bfloat16)
    loss = lambda p, x: nnx.merge(graph, p)(x).astype(jnp.float32).sum()  # noqa: E731
    assert jax.eval_shape(lambda p, x: nnx.merge(graph, p)(x), params, x).dtype == jnp.bfloat16
    gradients = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    assert all(bool(jnp.isfinite(g.astype(jnp.float32)).all()) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize(("name", "readout"), everyday([*RECURRENT, *VARIANTS], [("last",), ("mean",)], few=[]))
def test_7_readouts_equal_the_plain_path(name, readout):
    graph, params = build(name)

    def plain(mixer, state, x):
        state, y = by_step(mixer, state, x)
        return state, y[:, -1] if readout == "last" else y.mean(1)

    fast = lambda m, s, x: m.scan(s, x, readout=readout)  # noqa: E731
    same_with_gradients(graph, params, carried_state(graph, params), clip(), fast, plain)


@pytest.mark.parametrize(
    ("name", "steps", "readout"),
    everyday(
        [*RECURRENT, *VARIANTS],
        [(steps, readout) for steps in (1, 2, 7) for readout in ("last", "mean")],
        few=[],
    ),
)
def test_7_static_equals_the_repeated_frame(name, readout, steps):
    graph, params = build(name)

    def plain(mixer, state, x):
        state, y = by_step(mixer, state, repeat_frame(x, steps))
        return state, y[:, -1] if readout == "last" else y.mean(1)

    fast = lambda m, s, x: m.static(s, x, steps, readout=readout)  # noqa: E731
    same_with_gradients(graph, params, carried_state(graph, params), clip()[:, 0], fast, plain)


@pytest.mark.parametrize(
    ("name", "readout"),
    everyday(
        [n for n in RECURRENT if issubclass(MIXERS[n], SpatiallyPooled)],
        [("all",), ("last",), ("mean",)],
        few=[],
    ),
)
def test_7_pooled_equals_the_mean_over_space(name, readout):
    graph, params = build(name)
    fast = lambda m, s, x: m.pooled(s, x, readout=readout)  # noqa: E731
    plain = lambda m, s, x: m.scan(s, x, readout=readout)[1].mean((-3, -2))  # noqa: E731
    same_with_gradients(graph, params, carried_state(graph, params), clip(), fast, plain)


@pytest.mark.parametrize(
    ("name", "readout", "steps"),
    everyday(
        [n for n in RECURRENT if "lift" in inspect.signature(MIXERS[n].scan).parameters],
        [(readout, steps) for readout in ("all", "last", "mean") for steps in (1, 7, 37)],
        few=[],
    ),
)
def test_7_lifted_input_equals_lifting_first(name, readout, steps):
    graph, params = build(name)
    lift = jax.random.normal(jax.random.key(9), (3, CHANNELS))
    fast = lambda m, s, xw: m.scan(s, xw[0], readout=readout, lift=xw[1])  # noqa: E731
    plain = lambda m, s, xw: m.scan(s, xw[0] @ xw[1], readout=readout)  # noqa: E731
    same_with_gradients(graph, params, carried_state(graph, params), (clip(steps)[..., :3], lift), fast, plain)


def without_bias(params):
    """A frame of zeros then writes nothing."""
    return jax.tree.map_with_path(
        lambda path, p: jnp.zeros_like(p) if "bias" in jax.tree_util.keystr(path) else p, params
    )


@pytest.mark.parametrize("name", [*TIMED, *(v for v, (name, _) in VARIANTS.items() if name in TIMED)])
def test_8_a_double_step_equals_an_empty_frame_between(name):
    graph, params = build(name)
    params, dt = without_bias(params), jnp.ones((B, 4)).at[:, 2].set(2)

    def with_gap(mixer, state, x):
        x = jnp.insert(x, 2, 0.0, axis=1)
        state, y = mixer.scan(state, x)
        return state, jnp.delete(y, 2, axis=1)

    double = lambda m, s, x: m.scan(s, x, dt=dt)  # noqa: E731
    same_with_gradients(graph, params, carried_state(graph, params), clip(4), double, with_gap)


@pytest.mark.parametrize(("name",), everyday(TIMED, [()], few=[]))
def test_8_unit_steps_are_the_default(name):
    graph, params = build(name)
    units = lambda m, s, x: m.scan(s, x, dt=jnp.ones((B, 3)))  # noqa: E731
    same_with_gradients(graph, params, carried_state(graph, params), clip(3), units, lambda m, s, x: m.scan(s, x))


@pytest.mark.parametrize(("name",), everyday(TIMED, [()], few=[]))
def test_8_scan_equals_step_at_irregular_times(name):
    graph, params = build(name)
    dt = jnp.array([[0.3, 1, 2.5], [1.7, 0.01, 1]])
    reset = jnp.zeros((B, 3), bool).at[1, 1].set(True)

    def plain(mixer, state, xdt):
        def step(state, now):
            x, dt, reset = now
            clear = lambda v, z: jnp.where(reset.reshape(-1, *(1,) * (v.ndim - 1)), z, v)  # noqa: E731
            return mixer.step(jax.tree.map(clear, state, mixer.init_state(B, GRID)), x, dt=dt)

        state, y = lax.scan(step, state, (jnp.moveaxis(xdt[0], 1, 0), xdt[1].T, reset.T))
        return state, jnp.moveaxis(y, 0, 1)

    fast = lambda m, s, xdt: m.scan(s, xdt[0], dt=xdt[1], reset=reset)  # noqa: E731
    state = carried_state(graph, params)
    same_with_gradients(graph, params, state, (clip(3), dt), fast, plain)

    @jax.jit
    def shown(x):
        scan = lambda readout: nnx.merge(graph, params).scan(state, x, dt=dt, reset=reset, readout=readout)  # noqa: E731
        return scan("all")[1], scan("last"), scan("mean")

    y, last, mean = shown(clip(3))
    assert_close((last, mean[1]), ((mean[0], y[:, -1]), y.mean(1)), 1e-5)


@pytest.mark.parametrize("name", TIMED)
def test_8_bad_step_lengths_are_refused(name):
    mixer, x = nnx.merge(*build(name)), clip(2)
    state = mixer.init_state(B, GRID)
    scan = lambda dt: jax.eval_shape(lambda s: mixer.scan(s, x, dt=dt), state)  # noqa: E731
    step = lambda dt: jax.eval_shape(lambda s: mixer.step(s, x[:, 0], dt=dt), state)  # noqa: E731
    require_dt(mixer)
    for bad in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(UsageError, match="positive"):
            scan(np.array([[1, 1], [bad, 1]]))
        with pytest.raises(UsageError, match="positive"):
            step(np.full((B,), bad))
    for run, bad in ((scan, np.ones((B, 3))), (scan, np.ones((2,))), (scan, 2.0), (step, np.ones((B, 2)))):
        with pytest.raises(ShapeError, match="dt"):
            run(bad)


@pytest.mark.parametrize("name", [n for n in RECURRENT + CONTROLS if n not in TIMED])
def test_8_other_mixers_say_that_they_have_no_dt(name):
    with pytest.raises(UsageError, match="cannot honour dt"):
        require_dt(nnx.merge(*build(name)))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in RECURRENT + CONTROLS]
)
def test_9_trained_at_one_resolution_it_runs_at_another(name):
    """Two steps down the gradient at 32 x 32, then 48 x 40 with the same parameters."""
    mixer = create_mixer(name, channels=CHANNELS, grid=(32, 32), rngs=nnx.Rngs(0))
    graph, params = nnx.split(mixer)
    x = clip(2, (32, 32), batch=1)

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
    larger = clip(2, (48, 40), batch=1)
    run = jax.jit(lambda params: nnx.merge(graph, params)(larger))
    before, after = run(params), run(trained)
    assert after.shape == larger.shape and bool(jnp.isfinite(after).all())
    assert float(jnp.abs(after - before).max()) > 0


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_say_that_they_are_not_recurrent(name):
    assert not MIXERS[name].causal
    assert not hasattr(MIXERS[name], "step") and not hasattr(MIXERS[name], "init_state")
