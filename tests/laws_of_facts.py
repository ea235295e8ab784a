"""Laws of every registered mixer: what it declares is true, what it does not declare is refused, and bad input too."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

import made
from cssm.core.errors import ShapeError, UsageError
from cssm.nn import MIXERS, Control, Mixer, RecurrenceParam, create_mixer
from cssm.nn.layer import require_streaming
from cssm.nn.mixer import options_of, require_dt
from specimens import (
    CHANNELS,
    CONTROLS,
    GRID,
    RECURRENT,
    TIMED,
    B,
    T,
    clip,
    fresh_state,
    merged,
)
from tolerances import assert_close

EVERY = RECURRENT + CONTROLS
PUBLIC = ("step", "scan", "static", "pooled", "__call__")


def declaring(fact, value=True):
    return [name for name in RECURRENT if bool(getattr(MIXERS[name], fact)) is value]


@pytest.mark.parametrize("name", EVERY)
def test_what_is_declared_is_there_and_nothing_else(name):
    cls = MIXERS[name]
    base = Mixer if cls.recurrent else Control
    assert issubclass(cls, base)
    assert hasattr(cls, "transition") == cls.time_invariant
    assert hasattr(cls, "_pooled") == cls.pools
    assert hasattr(cls, "_static") == bool(cls.closed_form) and {*cls.closed_form} <= {"last", "mean"}
    for method in PUBLIC:  # nothing that is implemented is overridden
        assert getattr(cls, method, None) is getattr(base, method, None)
    assert not cls.__subclasses__()


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_say_that_they_are_not_recurrent(name):
    cls = MIXERS[name]
    assert not cls.causal and not cls.takes_dt and not cls.takes_lift and not cls.time_invariant
    assert not any(hasattr(cls, method) for method in (*PUBLIC[:-1], "init_state", "state_bound"))
    with pytest.raises(UsageError, match=f"mixer {name!r} is not recurrent and cannot stream"):
        require_streaming(merged(name), name)


@pytest.mark.parametrize("name", EVERY)
def test_options_have_types_and_those_of_positions_are_declared(name):
    cls = MIXERS[name]
    parameters = {*inspect.signature(cls.__init__).parameters} - {"self", "channels", "rngs"}
    assert {*options_of(name)} == parameters - {"grid"}
    assert ("rotary" in parameters, "grid" in parameters) == (cls.turns_inside, cls.learns_grid)
    build = lambda grid: create_mixer(name, channels=CHANNELS, grid=grid, rngs=nnx.Rngs(0))  # noqa: E731
    here, there = (nnx.state(nnx.eval_shape(lambda grid=grid: build(grid)), nnx.Param) for grid in (GRID, (4, 5)))
    assert (jax.tree.map(jnp.shape, here) != jax.tree.map(jnp.shape, there)) == cls.learns_grid
    with pytest.raises(UsageError, match="cannot honour no_such_option"):
        create_mixer(name, channels=CHANNELS, grid=GRID, rngs=nnx.Rngs(0), no_such_option=1)


@pytest.mark.parametrize("name", declaring("time_invariant"))
def test_transition_is_what_a_frame_does_to_the_state_whatever_the_frame(name):
    """Its numbers and their conjugates are the eigenvalues of that matrix, and 0 where past frames are forgotten."""
    mixer, grid = merged(name), (2, 3)
    matrix, other = (moved_by(mixer, x) for x in clip(2, grid, batch=1)[0])
    assert_close(other, matrix, 1e-5)
    found, factors = np.linalg.eigvals(matrix), np.asarray(mixer.transition(grid)).ravel()
    told = np.concatenate([factors, factors.conj()])
    distance = np.abs(found[:, None] - told)
    assert np.minimum(distance.min(1), np.abs(found)).max() < 1e-3
    assert distance.min(0).max() < 1e-3


def moved_by(mixer, x):
    """The real matrix (n, n) by which one frame (H, W, C) maps all n numbers of the state."""
    zero = mixer.init_state(1, x.shape[:2])
    basis = jnp.eye(numbers(zero).shape[1] + 1)[:, :-1]  # the last row is no past
    step = lambda rows, x: numbers(mixer.step(state_of(rows, zero), x)[0])  # noqa: E731
    after = jax.jit(step)(basis, jnp.broadcast_to(x, (len(basis), *x.shape)))
    return np.asarray(after[:-1] - after[-1]).T


def numbers(state):
    """(B, n): real parts and imaginary parts of all leaves."""
    parts = [part for v in jax.tree.leaves(state) for part in ((v.real, v.imag) if jnp.iscomplexobj(v) else (v,))]
    return jnp.concatenate([part.reshape(len(part), -1) for part in parts], 1)


def state_of(rows, like):
    """The state whose `numbers` are rows."""
    leaves, tree = jax.tree.flatten(like)
    sizes = [v.size * (1 + jnp.iscomplexobj(v)) for v in leaves]
    pieces = jnp.split(rows, np.cumsum(sizes)[:-1], 1)
    join = lambda piece, v: jax.lax.complex(*jnp.split(piece, 2, 1)) if jnp.iscomplexobj(v) else piece  # noqa: E731
    whole = [join(piece, v).reshape(-1, *v.shape[1:]) for piece, v in zip(pieces, leaves, strict=True)]
    return jax.tree.unflatten(tree, whole)


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("readout", ["last", "mean"])
def test_a_closed_form_makes_no_clip(name, readout):
    """No array of as many frames, no loop over them: exactly where it is declared."""
    steps, mixer = 5000, merged(name)
    static = lambda s, x: mixer.static(s, x, steps, readout=readout)  # noqa: E731
    longest = max(lengths(jax.make_jaxpr(static)(fresh_state(name), clip()[:, 0]).jaxpr))
    assert (longest < steps) == (readout in mixer.closed_form)


def lengths(jaxpr):
    """Sizes of all axes, and numbers of rounds of all loops."""
    for eqn in jaxpr.eqns:
        yield eqn.params.get("length", 0)
        for v in eqn.outvars:
            yield max(v.aval.shape, default=0)
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner, "eqns"):
                yield from lengths(inner)


@pytest.mark.parametrize("name", [n for n in EVERY if n not in TIMED])
def test_other_mixers_say_that_they_have_no_dt(name):
    mixer, x = merged(name), jnp.asarray(clip(2))
    with pytest.raises(UsageError, match="cannot honour dt"):
        require_dt(mixer)
    if isinstance(mixer, Mixer):
        state = mixer.init_state(B, GRID)
        for call in (
            lambda: mixer.step(state, x[:, 0], np.ones((B,))),
            lambda: mixer.scan(state, x, dt=np.ones((B, 2))),
            lambda: mixer(x, dt=np.ones((B, 2))),
        ):
            with pytest.raises(UsageError, match="cannot honour dt"):
                call()


@pytest.mark.parametrize("name", RECURRENT)
def test_lift_is_refused_where_it_is_not_declared_or_does_not_fit(name):
    mixer, x = merged(name), jnp.asarray(clip(2)[..., :3])
    state = mixer.init_state(B, GRID)
    error, says = (ShapeError, "lift has shape") if mixer.takes_lift else (UsageError, "cannot honour lift")
    for lift in (np.ones((3, CHANNELS - 1), np.float32), np.ones((2, CHANNELS), np.float32)):
        with pytest.raises(error, match=says):
            mixer.scan(state, x, lift=lift)


@pytest.mark.parametrize("name", declaring("pools", False))
def test_other_mixers_say_that_they_cannot_pool(name):
    mixer = merged(name)
    with pytest.raises(UsageError, match="cannot pool"):
        mixer.pooled(mixer.init_state(B, GRID), jnp.asarray(clip()))


@pytest.fixture
def as_in_use(monkeypatch):
    """Without the type checks that only tests have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", EVERY)
def test_a_bad_input_is_named(name, as_in_use):
    mixer, x = merged(name), jnp.asarray(clip())
    clips, frames = [mixer], []
    if isinstance(mixer, Mixer):
        state = mixer.init_state(B, GRID)
        clips.append(lambda x: mixer.scan(state, x))
        clips += [lambda x: mixer.pooled(state, x)] if mixer.pools else []
        frames = [lambda x: mixer.step(state, x), lambda x: mixer.static(state, x, 2)]
    for call in clips:
        with pytest.raises(ShapeError, match=r"takes a clip \(B, T, H, W, C\), got shape \(2, 6, 9, 8\)"):
            call(x[:, 0])
    for call in frames:
        with pytest.raises(ShapeError, match=r"takes a frame \(B, H, W, C\), got shape \(2, 7, 6, 9, 8\)"):
            call(x)
    for call, fit in [*((c, x) for c in clips), *((f, x[:, 0]) for f in frames)]:
        with pytest.raises(ShapeError, match="built for 8 channels, got an input of shape"):
            call(fit[..., :3])
        with pytest.raises(ShapeError, match="is empty"):
            call(fit[..., :0, :])
        with pytest.raises(ShapeError, match="floating point, got int32"):
            call(fit.astype(jnp.int32))


@pytest.mark.parametrize("name", RECURRENT)
def test_an_unknown_readout_and_no_steps_are_named(name):
    mixer, x = merged(name), jnp.asarray(clip())
    state, frame = mixer.init_state(B, GRID), x[:, 0]
    with pytest.raises(UsageError, match="scan: unknown readout 'first', use all, last or mean"):
        mixer.scan(state, x, readout="first")
    with pytest.raises(UsageError, match="static: unknown readout 'all', use last or mean"):
        mixer.static(state, frame, 3, readout="all")
    with pytest.raises(ShapeError, match="steps is 0, expected at least one"):
        mixer.static(state, frame, 0)
    if mixer.pools:
        with pytest.raises(UsageError, match="pooled: unknown readout 'first', use all, last or mean"):
            mixer.pooled(state, x, readout="first")


@pytest.mark.parametrize("name", RECURRENT)
def test_a_state_of_another_batch_grid_or_kind_is_refused(name):
    mixer, frame = merged(name), jnp.asarray(clip()[:, 0])
    shapes = lambda s: [v.shape for v in jax.tree.leaves(s)]  # noqa: E731
    states = [mixer.init_state(1, GRID), mixer.init_state(B, (1, 1))]
    if shapes(states[1]) == shapes(mixer.init_state(B, GRID)):  # a state over tokens is the same for every grid
        del states[1]
    for state in states:
        for call in (
            lambda s: mixer.step(s, frame),
            lambda s: mixer.scan(s, jnp.asarray(clip())),
            lambda s: mixer.static(s, frame, 2),
        ):
            with pytest.raises(ShapeError, match=r"state shapes .* do not fit"):
                call(state)
    with pytest.raises(ShapeError, match="the state is a tuple, not a"):
        mixer.step(tuple(mixer.init_state(B, GRID)), frame)


@pytest.mark.parametrize("name", RECURRENT)
def test_a_bad_reset_is_refused(name):
    mixer, x = merged(name), jnp.asarray(clip())
    state = mixer.init_state(B, GRID)
    for bad, says in (
        (np.zeros((B, T - 1), bool), "shape"),
        (np.zeros((B,), bool), "shape"),
        (np.zeros((B, T)), "bool"),
    ):
        with pytest.raises(ShapeError, match=f"reset.* {says}"):
            mixer.scan(state, x, reset=bad)


@pytest.mark.parametrize("name", TIMED)
def test_bad_step_lengths_are_refused(name):
    mixer, x = merged(name), jnp.asarray(clip(2))
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


@pytest.mark.parametrize("name", RECURRENT)
def test_its_own_parameters_are_those_of_the_recurrence(name):
    """What a mixer holds itself, in no dense layer and no convolution of the input, no compute dtype rounds."""
    own = {key: value for key, value in vars(merged(name)).items() if isinstance(value, nnx.Param)}
    assert all(isinstance(value, RecurrenceParam) for value in own.values()), own.keys()


@pytest.mark.parametrize("name", EVERY)
def test_float64_stays_float64_and_y_has_the_dtype_of_x(x64, name):
    """A step of 1e-6 moves y as its gradient says, to 1e-7: anything rounded to float32 on the way would hide it."""
    graph, params = nnx.split(made.mixer(name, CHANNELS, grid=(4, 5)))
    run = lambda p, x: nnx.merge(graph, p)(x)  # noqa: E731
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        for cast in (lambda p: p.astype(jnp.float32), lambda p: p):
            shape = jax.ShapeDtypeStruct((1, 3, 4, 5, CHANNELS), dtype)
            assert jax.eval_shape(run, jax.tree.map(cast, params), shape).dtype == dtype
    x = made.clip(t=3, grid=(4, 5), channels=CHANNELS, batch=1, dtype=jnp.float64)
    way = made.clip(t=3, grid=(4, 5), channels=CHANNELS, batch=1, dtype=jnp.float64, seed=3)

    @jax.jit
    def both(x):
        y, pull = jax.vjp(partial(run, params), x)
        slope = (pull(jnp.ones_like(y))[0] * way).sum()
        return slope, (run(params, x + 1e-6 * way) - run(params, x - 1e-6 * way)).sum() / 2e-6

    slope, expected = both(x)
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_an_empty_batch_is_refused_by_all_alike(name):
    with pytest.raises(ShapeError, match=r"the input of shape \(0, 7, 6, 9, 8\) is empty: give at least one"):
        merged(name)(clip()[:0])
