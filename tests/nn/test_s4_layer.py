from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from cssm.core.errors import ShapeError, UsageError
from cssm.nn.layers.s4 import S4
from tolerances import assert_close

KINDS = {
    "s4d": {"kernel": "s4d", "init": "lin"},
    "s4": {"kernel": "s4"},
}


def make(kind="s4d", seed=0, **options):
    options = {"d_state": 6, "channels": 2, "dt_min": 0.02, "dt_max": 0.2, "skip": True} | KINDS[kind] | options
    return S4(3, rngs=nnx.Rngs(seed), **options)


def sequence(length=11, batch=2):
    return jnp.asarray(np.random.default_rng(0).normal(size=(batch, length, 3)))


def some_state(batch=2):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(batch, 3, 3)) + 1j * rng.normal(size=(batch, 3, 3)))


def by_steps(layer, state, x, reset=None):
    system = layer.setup_step()
    reset = jnp.zeros(x.shape[:2], bool) if reset is None else reset

    def step(state, now):
        x, reset = now
        return layer.step(jnp.where(reset[:, None, None], 0, state), x, system=system)

    state, y = lax.scan(step, state, (x.swapaxes(0, 1), reset.swapaxes(0, 1)))
    return state, y.swapaxes(0, 1)


@pytest.mark.parametrize("kind", ["s4d", pytest.param("s4", marks=pytest.mark.slow)])
def test_scan_equals_step_with_every_gradient(x64, kind):
    graph, parameters = nnx.split(make(kind))

    def outcome(run, parameters, state, x):
        after, y = run(nnx.merge(graph, parameters), state, x)
        loss = jnp.sum(jnp.sin(jnp.arange(y.size)).reshape(y.shape) * y) + jnp.sum(jnp.abs(after) ** 2)
        return loss, (after, y)

    @jax.jit
    def run(*arguments):
        runs = (lambda layer, *a: layer.scan(*a)), by_steps
        return [jax.value_and_grad(partial(outcome, f), (0, 1, 2), has_aux=True)(*arguments) for f in runs]

    assert_close(*run(parameters, some_state(), sequence()), 1e-10)


def test_chunks_resets_and_the_call(x64):
    layer, x, state = make("s4"), sequence(), some_state()
    reset = jnp.zeros((2, 11), bool).at[0, 4].set(True).at[1, 7].set(True)

    @jax.jit
    def run(x, state):
        whole = layer.scan(state, x)
        middle = layer.advance(state, x[:, :6])
        last, end = layer.scan(middle, x[:, 6:])
        pairs = [(end, whole[1][:, 6:]), (last, whole[0])]
        pairs.append((layer(x), by_steps(layer, layer.init_state(2), x)[1]))
        pairs.append((layer.scan(state, x, reset=reset), by_steps(layer, state, x, reset)))
        pairs.append((layer.step(state, x[:, 0])[1], whole[1][:, 0]))
        return pairs

    for got, expected in run(x, state):
        assert_close(got, expected, 1e-10)


def test_causality_is_exact(x64):
    layer, x = make("s4"), sequence(9, 1)
    jacobian = jax.jit(jax.jacobian(lambda x: layer.scan(some_state(1), x, reset=jnp.zeros((1, 9), bool))[1][0, :, 0]))(
        x
    )
    future = np.triu(np.abs(np.asarray(jacobian)[:, :, 0]).max((1, 3)), 1)
    assert (future == 0).all()


def test_a_call_is_cut_at_l_max_and_a_scan_is_not(x64):
    impulse = jnp.zeros((1, 20, 3)).at[:, 0].set(1.0)
    layer = make(l_max=6)
    cut, whole = jax.jit(lambda x: (layer(x), layer.scan(layer.init_state(1), x)[1]))(impulse)
    assert_close(cut[:, :6], whole[:, :6])
    assert float(jnp.abs(cut[:, 6:]).max()) < 1e-12 < float(jnp.abs(whole[:, 6:]).min())


def test_axes_and_sizes():
    x, y = sequence(5).astype(jnp.float32), jax.eval_shape(make(), jnp.zeros((2, 5, 3)))
    assert y.shape == (2, 5, 2, 3) and make().d_output == 6
    assert jax.eval_shape(make(swap_channels=True), x).shape == (2, 5, 3, 2)
    state, y = jax.eval_shape(make(swap_channels=True).step, make().init_state(2), x[:, 0])
    assert state.shape == (2, 3, 3) and state.dtype == jnp.complex64 and y.shape == (2, 3, 2)
    assert jax.eval_shape(make(), x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_dropout_needs_a_key():
    x, key = sequence(64).astype(jnp.float32), jax.random.key(0)
    layer, loose, plain = make(dropout=0.5, tie_dropout=True), make(dropout=0.5), make()
    run = jax.jit(lambda x, key: (plain(x), layer(x), layer(x, key=key), loose(x, key=key)))
    y, still, tied, free = run(x, key)
    assert_close(still, y, 1e-6)
    gone = tied == 0
    assert bool((gone.all(1) == gone.any(1)).all()) and 0 < float(gone.mean()) < 1
    assert_close(jnp.where(gone, 0, tied), jnp.where(gone, 0, 2 * y), 1e-6)
    assert 0.35 < float((free == 0).mean()) < 0.65 and not bool(((free == 0).all(1) == (free == 0).any(1)).all())


def test_drop_kernel_drops_taps():
    impulse, key = jnp.zeros((1, 64, 3)).at[:, 0].set(1.0), jax.random.key(0)
    layer, plain = make(drop_kernel=0.5, skip=False), make(skip=False)
    dropped, whole = jax.jit(lambda x: (layer(x, key=key), plain(x)))(impulse)
    gone = jnp.abs(dropped) < 1e-6 * jnp.abs(whole).max()
    assert 0.3 < float(gone.mean()) < 0.7
    assert_close(jnp.where(gone, 0, dropped), jnp.where(gone, 0, 2 * whole), 1e-4)


def test_a_rate_is_a_longer_step(x64):
    layer, twin = make(), make()
    twin.log_dt[...] += jnp.log(2.0)
    run = jax.jit(lambda x, s: (layer.scan(s, x, rate=2.0), twin.scan(s, x), layer.advance(s, x, rate=2.0)))
    faster, longer, state = run(sequence(), some_state())
    assert_close(faster, longer, 1e-10)
    assert_close(state, longer[0], 1e-10)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: S4(3, kernel="s5", rngs=nnx.Rngs(0)), UsageError, "use s4 or s4d"),
        (lambda: make(lr=0.1), UsageError, "cannot honour lr"),
        (lambda: make("s4", init="lin"), UsageError, "no low-rank form"),
        (lambda: make()(jnp.ones((2, 5, 4))), ShapeError, r"\(B, L, 3\)"),
        (lambda: make()(jnp.ones((2, 0, 3))), ShapeError, "at least one step"),
        (lambda: make()(jnp.ones((2, 5, 3), int)), ShapeError, "x is int32"),
        (lambda: make().scan(jnp.zeros((2, 3, 3)), jnp.ones((2, 5, 3))), ShapeError, "expected complex"),
        (lambda: make().scan(make().init_state(3), jnp.ones((2, 5, 3))), ShapeError, "init_state"),
        (lambda: make().step(make().init_state(2), jnp.ones((2, 4))), ShapeError, r"\(B, 3\)"),
        (lambda: make()(jnp.ones((2, 5, 3)), rate=-1.0), UsageError, "positive number"),
        (
            lambda: make().scan(make().init_state(2), jnp.ones((2, 5, 3)), reset=jnp.zeros((2, 4), bool)),
            ShapeError,
            "reset has shape",
        ),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
