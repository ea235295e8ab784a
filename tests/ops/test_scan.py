from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cssm.core.errors import ShapeError, UsageError
from cssm.ops.scan import IMPLEMENTATIONS, cases, linear_scan, linear_scan_reference
from cssm.ops.scan.associative import combine
from tolerances import assert_close


def draw(rng, shape, is_complex=False, scale=1.0):
    value = rng.normal(size=shape) + (1j * rng.normal(size=shape) if is_complex else 0)
    return jnp.asarray(scale * value)


def arguments(case, seed=0):
    rng = np.random.default_rng(seed)
    state_shape = case.b[:1] + case.b[2:]
    is_complex = case.complex_a or case.complex_b
    return (
        draw(rng, case.a, case.complex_a, 0.6),
        draw(rng, case.b, case.complex_b),
        draw(rng, state_shape, is_complex),
        jnp.asarray(rng.random(case.b[:2]) < 0.3),
    )


def outputs_and_gradients(function, a, b, h0):
    def loss(*args):
        h = function(*args)
        weight = jnp.cos(jnp.arange(h.size, dtype=jnp.finfo(h.dtype).dtype)).reshape(h.shape)
        return jnp.sum(weight * h.real) + 0.5 * jnp.sum(weight * h.imag) + jnp.sum(jnp.abs(h) ** 2), h

    gradients, h = jax.grad(loss, (0, 1, 2), has_aux=True)(a, b, h0)
    return h, gradients


@pytest.mark.parametrize("name", cases.TESTS)
@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_equals_reference_with_every_gradient(x64, name, reverse):
    *arrays, resets = arguments(cases.TESTS[name])

    @jax.jit
    def run(a, b, h0):
        """What each function gives without resets and with some: the reference is compiled once for all."""
        ours = [partial(linear_scan, implementation=i) for i in IMPLEMENTATIONS]
        functions = [
            partial(f, reverse=reverse, reset=r) for f in (linear_scan_reference, *ours) for r in (None, resets)
        ]
        return [outputs_and_gradients(function, a, b, h0) for function in functions]

    plain, forgetful, *found = run(*arrays)
    for implementation, without, with_resets in zip(IMPLEMENTATIONS, found[::2], found[1::2], strict=True):
        assert_close((without, with_resets), (plain, forgetful), what=implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("axis", [0, -1, 2])
def test_any_axis(x64, implementation, axis):
    rng = np.random.default_rng(1)
    a, b = draw(rng, (5, 4, 6), scale=0.5), draw(rng, (5, 4, 6))
    assert_close(
        linear_scan(a, b, axis=axis, implementation=implementation), linear_scan_reference(a, b, axis=axis % 3)
    )


@settings(max_examples=4, deadline=None)
@given(steps=st.integers(1, 33), implementation=st.sampled_from(sorted(IMPLEMENTATIONS)), seed=st.integers(0, 99))
def test_any_length_in_float32(steps, implementation, seed):
    rng = np.random.default_rng(seed)
    a, b = (draw(rng, (2, steps, 3), scale=s).astype(jnp.float32) for s in (0.5, 1.0))
    reset = jnp.asarray(rng.random((2, steps)) < 0.2)
    run = jax.jit(lambda a, b: linear_scan(a, b, reset=reset, implementation=implementation))
    assert_close(run(a, b), linear_scan_reference(a, b, reset=reset))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_input_keeps_a_float32_carry(implementation):
    b = jnp.ones((1, 512, 1), jnp.bfloat16)
    h = linear_scan(jnp.float32(0.999), b, implementation=implementation)
    assert_close(h, linear_scan_reference(jnp.float32(0.999), b.astype(jnp.float32)))
    gradient = jax.grad(lambda b: linear_scan(jnp.bfloat16(0.5), b, implementation=implementation).sum())(b)
    assert gradient.dtype == jnp.bfloat16 and bool(jnp.isfinite(gradient).all())


def test_combine_is_associative(x64):
    rng = np.random.default_rng(2)
    p, q, r = ((draw(rng, (4,), True), draw(rng, (4,), True)) for _ in range(3))
    assert_close(combine(combine(p, q), r), combine(p, combine(q, r)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_reset_discards_a_poisoned_past(implementation):
    b = jnp.ones((1, 9, 1)).at[0, jnp.array([1, 3])].set(jnp.array([[jnp.nan], [jnp.inf]]))
    reset = jnp.arange(9)[None] == 4
    a = jnp.ones((1, 9, 1)).at[0, 2].set(jnp.inf)
    run = lambda a, b: linear_scan(a, b, reset=reset, implementation=implementation)[0, 4:, 0]  # noqa: E731
    assert run(a, b).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    da, db = jax.grad(lambda a, b: run(a, b).sum(), (0, 1))(a, b)
    assert da[0, 4:, 0].tolist() == [0.0, 4.0, 6.0, 6.0, 4.0] and db[0, 4:, 0].tolist() == [5.0, 4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(0, 5, 2), (2, 5, 0)])
def test_nothing_to_do_is_done(implementation, shape):
    run = jax.grad(lambda b: linear_scan(jnp.ones((5, 1)), b, implementation=implementation).sum())
    assert run(jnp.ones(shape)).shape == shape


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: linear_scan(jnp.ones((2, 3, 2)), jnp.ones((2, 3, 5))), ShapeError, "does not broadcast"),
        (lambda: linear_scan(jnp.ones((7, 2, 3, 5)), jnp.ones((2, 3, 5))), ShapeError, "does not broadcast"),
        (lambda: linear_scan(jnp.ones(()), jnp.ones((2, 3), int)), ShapeError, "int"),
        (lambda: linear_scan(jnp.ones(()), jnp.ones((2, 0, 3))), ShapeError, "at least one"),
        (lambda: linear_scan(jnp.ones(()), jnp.ones((2, 3)), jnp.ones((3,))), ShapeError, "h0"),
        (lambda: linear_scan(jnp.ones(()), jnp.ones((2, 3)), reset=jnp.ones((3, 2), bool)), ShapeError, "reset"),
        (lambda: linear_scan(jnp.ones(()), jnp.ones((2, 3)), implementation="magic"), UsageError, "sequential"),
        (lambda: linear_scan(jnp.ones(()), jnp.ones((2, 3)), axis=5), ShapeError, "axis 5"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
