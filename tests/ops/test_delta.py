from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm.core.errors import ShapeError, UsageError
from cssm.ops import decayed_attention, delta_rule, delta_static
from cssm.ops.delta import cases
from tolerances import assert_close


def draw(rng, shape, is_complex=False):
    return jnp.asarray(rng.normal(size=shape) + (1j * rng.normal(size=shape) if is_complex else 0))


def unit(k, axis=3):
    return k / jnp.sqrt(jnp.square(jnp.abs(k)).sum(axis, keepdims=True))


def arguments(case, seed=0):
    """(q, k, v, alpha, beta, gain, state), and resets."""
    rng = np.random.default_rng(seed)
    lead, rest = (case.batch, case.steps, case.heads), case.frequencies
    q, k, v = (draw(rng, (*lead, d, *rest), case.complex) for d in (case.keys, case.keys, case.values))
    alpha, beta = jnp.asarray(rng.uniform(0.1, 0.99, lead)), jnp.asarray(rng.uniform(0, 1, lead))
    gain = 0.5 * draw(rng, (case.heads, *rest), case.complex) if case.gain else None
    state = draw(rng, (case.batch, case.heads, case.values, case.keys, *rest), case.complex)
    reset = jnp.asarray(rng.random(lead[:2]) < 0.2)
    return (q, unit(k), v, alpha, beta, gain, state), reset


def outputs_and_gradients(function, args, which):
    def loss(*args):
        total, outputs = 0.0, function(*args)
        for leaf in jax.tree.leaves(outputs):
            weight = jnp.cos(jnp.arange(leaf.size, dtype=jnp.finfo(leaf.dtype).dtype)).reshape(leaf.shape)
            total = total + (weight * (leaf.real + 0.5 * leaf.imag)).sum() + (jnp.abs(leaf) ** 2).sum()
        return total, outputs

    gradients, outputs = jax.grad(loss, which, has_aux=True)(*args)
    return outputs, gradients


def implementations(case):
    return ["sequential"] if case.frequencies else ["chunked"] if case.steps > 100 else ["sequential", "chunked"]


@pytest.mark.parametrize("name", cases.TESTS)
def test_equals_reference_with_every_gradient(x64, name):
    case = cases.TESTS[name]
    args, resets = arguments(case)
    which = [i for i, a in enumerate(args) if a is not None]

    @jax.jit
    def run(args):
        pairs = []
        for option in ({"reset": resets}, {"reset": None, "readout": "last"}):
            call = lambda *a, i: delta_rule(*a[:5], gain=a[5], state=a[6], implementation=i, **option)  # noqa: B023, E731
            slow = outputs_and_gradients(partial(call, i="reference"), args, which)
            pairs += [(outputs_and_gradients(partial(call, i=i), args, which), slow) for i in implementations(case)]
        return pairs

    for fast, slow in run(args):
        assert_close(fast, slow)


@pytest.mark.parametrize("steps", [5, 150])
def test_decayed_attention_equals_reference_with_every_gradient(x64, steps):
    rng = np.random.default_rng(3)
    q, k, v = draw(rng, (2, steps, 4)), draw(rng, (2, steps, 4)), draw(rng, (2, steps, 3, 2))
    log_a, state = jnp.asarray(-rng.exponential(0.3, (2, steps, 3))), draw(rng, (2, 3, 2, 4))
    resets = jnp.asarray(rng.random((2, steps)) < 0.1)

    @jax.jit
    def run(*args):
        def call(*a, reset, i):
            return decayed_attention(*a[:4], state=a[4], reset=reset, implementation=i)

        return [
            [outputs_and_gradients(partial(call, reset=r, i=i), args, range(5)) for i in ("chunked", "reference")]
            for r in (None, resets)
        ]

    for fast, slow in run(q, k, v, log_a, state):
        assert_close(fast, slow)


@pytest.mark.parametrize("steps", [1, 7])
def test_static_equals_the_repeated_step(x64, steps):
    (q, k, v, alpha, beta, gain, state), _ = arguments(cases.TESTS["spectral"])
    first = [a[:, 0] for a in (q, k, v, alpha, beta)]
    first[1] = first[1].at[0, 0].set(0)  # no key: nothing is erased, nothing written
    args = (*first, gain, state)

    def plain(*a):
        repeated = [jnp.broadcast_to(x[:, None], (x.shape[0], steps, *x.shape[1:])) for x in a[:5]]
        return delta_rule(*repeated, gain=a[5], state=a[6], readout="last", implementation="reference")

    fast = lambda *a: delta_static(*a[:5], steps, gain=a[5], state=a[6])  # noqa: E731
    run = jax.jit(lambda *a: [outputs_and_gradients(f, a, range(7)) for f in (fast, plain)])
    assert_close(*run(*args))


def test_several_pairs_are_held_at_once_and_a_key_is_overwritten(x64):
    """With alpha = beta = gain = 1: S k = v for every orthogonal key; a key seen again holds its last value."""
    rng = np.random.default_rng(4)
    basis = jnp.moveaxis(jnp.asarray(np.linalg.qr(draw(rng, (5, 4, 4), True))[0]), 0, -1)  # j, pair, f
    keys = jnp.moveaxis(basis, 1, 0)[jnp.array([0, 1, 2, 3, 1])][None, :, None]  # 1 t 1 j f
    values, one = draw(rng, (1, 5, 1, 3, 5), True), jnp.ones((1, 5, 1))
    state, o = delta_rule(keys, keys, values, one, one)
    assert_close(o, values)
    held = jnp.einsum("bnijf,btnjf->btnif", state, keys)
    assert_close(held, values.at[:, 1].set(values[:, 4]))


def test_state_bound_with_adversarial_keys_for_4096_steps():
    """Keys orthogonal to what is held grow the state fastest; |S| <= max |v| / (1 - max |alpha W|)."""
    steps = 4096
    angle = jnp.arange(steps) * jnp.pi / 2
    k = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)[None, :, None, :, None].astype(jnp.complex64)
    v = jnp.ones((1, steps, 1, 2, 1), jnp.complex64) / jnp.sqrt(2.0)  # norm 1
    alpha = jnp.full((1, steps, 1), 0.99)
    gain = jnp.full((1, 1), 0.999 * jnp.exp(0.3j), jnp.complex64)
    state, o = jax.jit(partial(delta_rule, gain=gain))(k, k, v, alpha, jnp.ones((1, steps, 1)))
    bound = 1 / (1 - 0.99 * 0.999)
    assert float(jnp.linalg.norm(state[0, 0, :, :, 0], 2)) <= bound
    assert float(jnp.abs(o).max()) <= bound
    fastest = delta_rule(k, k, v, alpha, jnp.zeros((1, steps, 1)), gain=gain, state=state)[0]  # nothing written: decays
    assert float(jnp.abs(fastest).max()) < 1e-6


def test_long_memories_in_float32():
    args, reset = arguments(cases.Case(1, 700, 2, 8, 8), seed=5)
    q, k, v, _, beta, _, state = (None if a is None else a.astype(jnp.float32) for a in args)
    alpha = jnp.asarray(np.random.default_rng(6).choice([0.1, 0.999, 1.0], (1, 700, 2)), jnp.float32)
    run = jax.jit(delta_rule, static_argnames="implementation")
    fast, slow = (
        run(q, k, v, alpha, beta, state=state, reset=reset, implementation=i) for i in ("chunked", "reference")
    )
    assert_close(fast, slow)


@pytest.mark.parametrize("implementation", ["chunked", "sequential"])
def test_decays_that_underflow_have_the_slopes_of_float64(x64, implementation):
    """alpha down to 0: the products of a chunk vanish in float32, their slopes do not."""
    args, _ = arguments(cases.Case(1, 9, 2, 4, 3), seed=7)
    alpha = np.asarray(args[3]).copy()
    alpha[0, 1:8] = np.array([0, 6e-39, 1e-30, 1e-19, 1e-10, 0.5, 0])[:, None]
    args = (*args[:3], jnp.asarray(alpha), *args[4:])
    single = tuple(None if a is None else a.astype(jnp.float32) for a in args)
    call = lambda i: lambda *a: delta_rule(*a[:5], gain=a[5], state=a[6], implementation=i)  # noqa: E731
    which = [i for i, a in enumerate(args) if a is not None]
    both = lambda i: jax.jit(lambda *a: outputs_and_gradients(call(i), a, which))  # noqa: E731
    assert_close(both(implementation)(*single), both("reference")(*args))
    one = jnp.ones((1, 3, 1), jnp.float32)
    total = lambda a: delta_rule(*[one[..., None]] * 3, a, one / 2, implementation=implementation)[1].sum()  # noqa: E731
    slope = jax.jit(jax.grad(total))
    np.testing.assert_allclose(slope(one.at[0, 1].set(6e-39)).ravel(), [0, 0.375, 0.25], rtol=1e-5)


def test_a_negative_decay_is_not_taken_for_a_small_one_in_chunks():
    one = jnp.ones((1, 3, 1))
    assert bool(jnp.isnan(delta_rule(*[one[..., None]] * 3, -one, one)[0]).all())


def test_bfloat16_input_keeps_a_float32_carry():
    args, _ = arguments(cases.TESTS["tokens"])
    q, k, v, alpha, beta, *_ = (None if a is None else a.astype(jnp.bfloat16) for a in args)
    state, o = delta_rule(q, k, v, alpha, beta)
    assert state.dtype == o.dtype == jnp.float32


ONES = jnp.ones((1, 3, 2, 2, 5))
GATE = jnp.ones((1, 3, 2))
TOKEN = jnp.ones((1, 3, 2))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: delta_rule(ONES[:, :2], ONES, ONES, GATE, GATE), ShapeError, "do not fit together"),
        (lambda: delta_rule(ONES, ONES, ONES[..., :4], GATE, GATE), ShapeError, "do not fit together"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE[..., :1], GATE), ShapeError, "alpha"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE + 0j), ShapeError, "real"),
        (lambda: delta_rule(ONES, ONES, ONES.astype(int), GATE, GATE), ShapeError, "int"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, gain=jnp.ones((2, 4))), ShapeError, "gain"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, state=jnp.ones((1, 2, 2, 2, 4))), ShapeError, "state"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, reset=jnp.ones((1, 2), bool)), ShapeError, "reset"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, reset=jnp.ones((1, 3))), ShapeError, "bool"),
        (lambda: delta_rule(ONES[:, :0], ONES[:, :0], ONES[:, :0], GATE[:, :0], GATE[:, :0]), ShapeError, "at least"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, readout="mean"), UsageError, "all or last"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, implementation="magic"), UsageError, "sequential"),
        (lambda: delta_rule(ONES, ONES, ONES, GATE, GATE, implementation="chunked"), UsageError, "tokens"),
        (lambda: delta_static(*[ONES[:, 0]] * 3, *[GATE[:, 0]] * 2, 0), ShapeError, "at least one"),
        (lambda: decayed_attention(TOKEN, TOKEN, TOKEN, GATE), ShapeError, "expected"),
        (lambda: decayed_attention(TOKEN, TOKEN, ONES[..., 0], GATE + 0j), ShapeError, "real"),
        (
            lambda: decayed_attention(TOKEN, TOKEN, ONES[..., 0], GATE, state=jnp.ones((1, 2, 2))),
            ShapeError, "state",
        ),
        (
            lambda: decayed_attention(TOKEN, TOKEN, ONES[..., 0], GATE, implementation="magic"),
            UsageError, "chunked",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
