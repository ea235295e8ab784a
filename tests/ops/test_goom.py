import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from cssm.core.errors import ShapeError, UsageError
from cssm.ops import goom, spectral_scan
from cssm.ops.goom import cases, from_goom, reference, to_goom
from cssm.ops.scan import linear_scan_reference
from made import values_and_gradients
from tolerances import assert_close

ZERO = complex(-math.inf, 0)


def draw(shape, is_complex=True, seed=0):
    """Ordinary numbers, none of them near zero."""
    rng = np.random.default_rng(seed)
    phase = 2 * np.pi * rng.random(shape) if is_complex else np.pi * rng.integers(0, 2, shape)
    value = np.exp(rng.normal(size=shape)) * np.exp(1j * phase)
    return jnp.asarray(value if is_complex else value.real)


OPERATIONS = {  # on GOOMs, on ordinary numbers, shapes
    "mul": (goom.mul, jnp.multiply, [(3, 4), (4,)]),
    "add": (goom.add, jnp.add, [(3, 4), (4,)]),
    "sum": (partial(goom.sum, axis=1), lambda x: x.sum(1), [(3, 4, 2)]),
    "prod": (partial(goom.prod, axis=0), lambda x: x.prod(0), [(7, 2)]),
    "matmul": (goom.matmul, jnp.matmul, [(2, 2, 3), (3, 2)]),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("is_complex", [False, True])
def test_operations_equal_those_on_ordinary_numbers_with_every_gradient(x64, name, is_complex):
    operation, plain, shapes = OPERATIONS[name]
    args = [draw(shape, is_complex, i) for i, shape in enumerate(shapes)]
    through = lambda *v: from_goom(operation(*map(to_goom, v)), real=not is_complex)  # noqa: E731
    assert_close(*jax.jit(lambda *v: [values_and_gradients(f, *v) for f in (through, plain)])(*args))


@pytest.mark.parametrize("name", ["add", "sum", "prod", "matmul"])
def test_gradients_to_logarithms_equal_autodiff_of_the_reference(x64, name):
    operation, _, shapes = OPERATIONS[name]
    args = [jnp.log(draw(shape, True, i)) for i, shape in enumerate(shapes)]
    slow = {
        "add": reference.add_reference, "sum": partial(reference.sum_reference, axis=1),
        "prod": partial(reference.prod_reference, axis=0), "matmul": reference.matmul_reference,
    }[name]  # fmt: skip
    if name == "add":
        args = list(jnp.broadcast_arrays(*args))
    fast, slow = (lambda *v, f=f: from_goom(f(*v)) for f in (operation, slow))
    assert_close(*jax.jit(lambda *v: [values_and_gradients(f, *v) for f in (fast, slow)])(*args))
    assert_close(to_goom(draw((5,))), reference.to_goom_reference(draw((5,))))


@pytest.mark.parametrize(
    ("name", "is_complex"),
    [("mul", False), ("add", True), ("sum", False), ("matmul", True), ("scan", False), ("scan", True)],
)
def test_gradients_agree_with_finite_differences(x64, name, is_complex):
    operation, _, shapes = {**OPERATIONS, "scan": (goom.scan, None, [(2, 4, 1), (2, 4, 2), (2, 2)])}[name]
    args = [draw(shape, is_complex, i + 7) for i, shape in enumerate(shapes)]
    through = jax.jit(lambda *v: operation(*map(to_goom, v)))  # the logarithm itself: both its parts
    check_grads(through, args, order=1, modes=("rev",), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", cases.TESTS)
def test_scan_equals_the_reference_with_every_gradient(x64, name):
    case = cases.TESTS[name]
    shapes = (case.a, case.b, case.b[:1] + case.b[2:])
    a, b, h0 = (jnp.log(draw(shape, case.complex, i).astype(complex)) for i, shape in enumerate(shapes))

    implementations = ["sequential"] if name in ("one_step", "real") else list(goom.IMPLEMENTATIONS)

    @jax.jit
    def run(a, b, h0):
        slow = lambda *v: jnp.exp(reference.scan_reference(*v))  # noqa: E731
        fast = [lambda *v, i=i: from_goom(goom.scan(*v, implementation=i)) for i in implementations]
        return [values_and_gradients(f, a, b, h0) for f in (slow, *fast)]

    expected, *found = run(a, b, h0)
    assert len(found) == len(implementations)
    for actual in found:
        assert_close(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("implementation", "options"),
    [("sequential", {}), ("sequential", {"axis": 2}), ("associative", {}), ("associative", {"reverse": True})],
)
def test_scan_with_zeros_and_resets_equals_ordinary_numbers(x64, implementation, options):
    rng = np.random.default_rng(3)
    a, b, h0 = draw((2, 5, 5), False), draw((2, 5, 5), False, 1), draw((2, 5), False, 2)
    a, b, h0 = (v * (rng.random(v.shape) < 0.6) for v in (a, b, h0))
    reset = jnp.asarray(rng.random((2, 5, 5)[: options.get("axis", 1) + 1]) < 0.3)

    @jax.jit
    def run(a, b, h0):
        h = goom.scan(*map(to_goom, (a, b, h0)), reset=reset, implementation=implementation, **options)
        return from_goom(h, real=True), h.imag

    values, phase = run(a, b, h0)
    assert_close(values, linear_scan_reference(a, b, h0, reset=reset, **options))
    assert set(np.unique(phase)) <= {0.0, math.pi}  # real numbers stay exactly real
    gradients = jax.jit(jax.grad(lambda *v: run(*v)[0].sum(), (0, 1, 2)))(a, b, h0)
    assert all(bool(jnp.isfinite(g).all()) for g in gradients)


def test_spectral_scan_on_goom_equals_the_reference_with_every_gradient_at_zeros_too(x64):
    x, state = draw((2, 4, 3, 4, 2), False).at[:, 1].set(0), jnp.zeros((2, 2, 3, 3), complex)
    spectrum, reset = 0.3 * draw((2, 3, 3), True, 1).at[0, 0, 0].set(0), jnp.zeros((2, 4), bool).at[1, 2].set(True)

    @jax.jit
    def run(*args):
        return [
            values_and_gradients(
                lambda x, k, s, i=i: spectral_scan(x, k, state=s, reset=reset, readout="mean", implementation=i)[1],
                *args,
            )
            for i in ("goom", "reference")
        ]

    assert_close(*run(x, spectrum, state))


@pytest.mark.slow
@pytest.mark.parametrize("shape", cases.MATRIX_TESTS.values(), ids=cases.MATRIX_TESTS)
def test_matrix_scan_and_product_equal_the_reference_with_gradients(x64, shape):
    a = jnp.log(draw(shape))
    slow = jax.vmap(reference.matrix_scan_reference) if len(shape) > 3 else reference.matrix_scan_reference

    @jax.jit
    def run(a):
        scans = [values_and_gradients(lambda a: jnp.exp(f(a)), a) for f in (goom.matrix_scan, slow)]  # noqa: B023
        last = [
            values_and_gradients(lambda a: jnp.exp(f(a)), a)  # noqa: B023
            for f in (goom.matrix_prod, lambda a: slow(a)[..., -1, :, :])
        ]
        return scans, last

    for fast, expected in run(a):
        assert_close(fast, expected)


def test_zero_round_trips_with_no_floor():
    for values in (jnp.array([0.0, -0.0, 1e-30, -2e-37, 3e38]), jnp.array([0, -0.0j, 1e-30j, 2e-37 - 1e-37j, -3e38])):
        z, back = jax.jit(lambda x: (to_goom(x), from_goom(to_goom(x), real=not jnp.iscomplexobj(x))))(values)
        assert z[:2].tolist() == [ZERO, ZERO] and back[:2].tolist() == [0, 0]
        np.testing.assert_allclose(back[2:], values[2:], rtol=1e-5)
    assert to_goom(jnp.float32(1e-40)) == ZERO  # subnormal


@pytest.mark.slow
@pytest.mark.parametrize("one", [1.0, 0.3 - 2.0j])
def test_nothing_is_nan_at_zeros_and_cancellations(x64, one):
    one = jnp.asarray(one)
    pairs = jnp.stack([jnp.array(p) for p in ([0, 0], [one, 0], [0, one], [one, -one], [one, one])])  # 5 2
    real = not jnp.iscomplexobj(one)
    numbers = lambda z: from_goom(z, real=real)  # noqa: E731
    functions = {
        "add": (lambda z: goom.add(z[:, 0], z[:, 1]), pairs.sum(1)),
        "sum": (goom.sum, pairs.sum(1)),
        "mul": (lambda z: goom.mul(z[:, 0], z[:, 1]), pairs.prod(1)),
        "prod": (goom.prod, pairs.prod(1)),
        "matmul": (lambda z: goom.matmul(z, z.T), pairs @ pairs.T),
        "scan": (lambda z: goom.scan(z, z, axis=1)[:, -1], pairs[:, 1] * (1 + pairs[:, 0])),
    }

    @jax.jit
    def run(x):
        return {name: values_and_gradients(lambda x: numbers(f(to_goom(x))), x) for name, (f, _) in functions.items()}  # noqa: B023

    for name, (value, (gradient,)) in run(pairs).items():
        np.testing.assert_allclose(value, functions[name][1], atol=1e-15 * abs(one) ** 2 * 2, err_msg=name)
        assert bool(jnp.isfinite(gradient).all()), name
        if name != "matmul":
            assert bool((gradient[0] == 0).all()), name  # 0 at 0


def test_opposite_real_numbers_cancel_exactly_and_zero_changes_no_bit():
    x = to_goom(draw((100,), False).astype(jnp.float32) * 1e30)
    y = to_goom(draw((100,), True, 1).astype(jnp.complex64))

    @jax.jit
    def run(x, y):
        minus, nothing = to_goom(jnp.float32(-1)), to_goom(jnp.float32(0))
        both = jnp.stack([y, jnp.full_like(y, ZERO)], -1)
        same = goom.add(y, nothing), goom.add(nothing, y), goom.sum(both), goom.mul(y, to_goom(jnp.float32(1)))
        return goom.add(x, goom.mul(x, minus)), same

    cancelled, same = run(x, y)
    assert bool((cancelled == ZERO).all())
    for found in same:
        np.testing.assert_array_equal(found, y)


def test_the_gradient_is_zero_not_nan_for_what_overflows_unused():
    z = jnp.array([1000 + 0j, 2.0])
    numbers = jax.jit(lambda z: (from_goom(z, real=True), from_goom(z)))
    slope = jax.jit(jax.grad(lambda z: jnp.where(z.real < 80, numbers(z)[0], 0).sum()))(z)
    assert slope[0] == 0 and abs(slope[1] - math.exp(2)) < 1e-5
    assert numbers(z)[0][0] == jnp.inf and not np.isnan(numbers(z)[1]).any()


def test_second_derivatives_are_finite_and_right(x64):
    x = jnp.array([0.5, -2.0, 3.0])
    total = lambda x: from_goom(goom.sum(goom.mul(to_goom(x), to_goom(x))), real=True)  # noqa: E731
    np.testing.assert_allclose(jax.jit(jax.jacrev(jax.grad(total)))(x), 2 * np.eye(3), atol=1e-12)


FACTORS = 10_000


def test_product_of_ten_thousand_factors_where_float32_dies():
    rng = np.random.default_rng(0)
    small = (rng.uniform(0.3, 0.9, FACTORS) * rng.choice([-1, 1], FACTORS)).astype(np.float32)
    for factors in (small, 1 / small):
        exact = math.fsum(math.log(abs(float(f))) for f in factors)
        total = jax.jit(lambda x: goom.prod(to_goom(x)))(factors)
        assert float(jnp.prod(factors)) in (0.0, math.inf, -math.inf)
        assert abs(float(total.real) - exact) < 1e-6 * abs(exact)  # measured: 1e-7
        assert (total.imag == 0) == (np.sum(factors < 0) % 2 == 0)
        slope = jax.jit(jax.grad(lambda x: goom.prod(to_goom(x)).real))(factors)
        np.testing.assert_allclose(slope, 1 / factors, rtol=1e-6)


@pytest.mark.parametrize("least", [-np.pi, 1.0])  # 1.0: a steady rotation, where every wrap has the same sign
def test_phase_of_ten_thousand_factors_is_reduced_without_drift(least):
    angles = np.random.default_rng(0).uniform(least, np.pi, FACTORS).astype(np.float32)
    z = jax.lax.complex(jnp.zeros(FACTORS), jnp.asarray(angles))
    exact = math.remainder(math.fsum(map(float, angles)), 2 * math.pi)
    running = jax.jit(lambda z: goom.scan(z, jnp.full_like(z, ZERO), jnp.zeros((), z.dtype), axis=0))(z)[-1]
    for total in (jax.jit(goom.prod)(z), running):
        assert abs(math.remainder(float(total.imag) - exact, 2 * math.pi)) < 5e-5


def test_recurrence_of_ten_thousand_steps_where_float32_dies(x64):
    rng = np.random.default_rng(1)
    a, b = rng.uniform(-3, 3, FACTORS).astype(np.float32), rng.normal(size=FACTORS).astype(np.float32)
    a[5000:] /= 9  # up beyond 1e38, then down below 1e-38
    scan = jax.jit(lambda a, b: goom.scan(to_goom(a), to_goom(b), axis=0))
    ours, exact = (scan(jnp.asarray(a, d), jnp.asarray(b, d)).real for d in (jnp.float32, jnp.float64))
    direct = linear_scan_reference(jnp.asarray(a), jnp.asarray(b), axis=0)
    assert not jnp.isfinite(direct[4999]) and float(exact[4999]) > 400
    assert bool(jnp.isfinite(ours).all())
    np.testing.assert_allclose(ours, exact, atol=0.01)


def lyapunov(matrices):
    """log of the largest singular value's growth, by QR in float64: the textbook way."""
    frame, total = np.eye(2), 0.0
    for matrix in matrices:
        frame, r = np.linalg.qr(matrix.astype(float) @ frame)
        total += math.log(abs(r[0, 0]))
    return total


def test_product_of_ten_thousand_matrices_where_float32_dies():
    matrices = np.random.default_rng(0).normal(size=(FACTORS, 2, 2)).astype(np.float32)
    direct = jax.jit(lambda a: jax.lax.scan(lambda p, a: (a @ p, None), jnp.eye(2), a)[0])(matrices)
    assert not bool(jnp.isfinite(direct).any())
    ours = jax.jit(lambda a: goom.matrix_prod(to_goom(a)))(matrices)
    first_column = 0.5 * np.logaddexp(*(2 * np.asarray(ours.real, float)[:, 0]))
    assert abs(first_column - lyapunov(matrices)) < 1e-5 * abs(first_column)
    assert abs(first_column / FACTORS - (math.log(2) - np.euler_gamma) / 2) < 0.03  # the limit (Newman 1986)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=8, max_size=8))
def test_sums_and_products_of_any_floats(values):
    x = np.asarray(values, np.float32)
    x[np.abs(x) < 1e-30] = 0
    total, product = SUM_AND_PRODUCT(jnp.asarray(x))
    scale = float(np.abs(x).max())
    assert abs(float(total) - math.fsum(map(float, x))) <= 1e-4 * scale
    logs = [math.log(abs(float(v))) if v else -math.inf for v in x]
    assert (product.real == -jnp.inf) if 0 in x else abs(float(product.real) - math.fsum(logs)) < 1e-3
    assert not jnp.isnan(product.imag)


SUM_AND_PRODUCT = jax.jit(lambda x: (from_goom(goom.sum(to_goom(x)), real=True), goom.prod(to_goom(x))))


def test_bfloat16_is_carried_as_float32():
    x = jnp.array([0.5, -3.0], jnp.bfloat16)
    assert to_goom(x).dtype == jnp.complex64
    slope = jax.jit(jax.grad(lambda x: from_goom(goom.prod(to_goom(x)), real=True)))(x)
    assert slope.dtype == jnp.bfloat16
    np.testing.assert_allclose(slope.astype(jnp.float32), [-3.0, 0.5], rtol=1e-2)


Z = jnp.zeros((2, 3), jnp.complex64)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: to_goom(jnp.arange(3)), ShapeError, "to_goom takes real or complex floating arrays, got int32"),
        (lambda: from_goom(jnp.ones(3)), ShapeError, "from_goom: z is float32, expected a GOOM"),
        (lambda: goom.mul(Z, jnp.ones(3)), ShapeError, "mul: b is float32, expected a GOOM: take to_goom"),
        (lambda: goom.add(Z, Z[:, :2]), ShapeError, "do not broadcast"),
        (lambda: goom.sum(Z, axis=2), ShapeError, "nothing along axis 2"),
        (lambda: goom.prod(Z[:0], axis=0), ShapeError, "at least one entry"),
        (lambda: goom.matmul(Z, Z), ShapeError, "do not fit"),
        (lambda: goom.matrix_prod(Z), ShapeError, "square matrices"),
        (lambda: goom.matrix_scan(jnp.zeros((4, 2, 2), complex), axis=-1), ShapeError, "axis -1"),
        (lambda: goom.scan(Z, Z[:, :2]), ShapeError, "does not broadcast"),
        (lambda: goom.scan(Z, Z[:, :0]), ShapeError, "nothing along axis 1"),
        (lambda: goom.scan(Z, Z, Z), ShapeError, "h0 has shape"),
        (lambda: goom.scan(Z, Z, reset=jnp.ones((3,), bool)), ShapeError, "reset has shape"),
        (lambda: goom.scan(Z, Z, implementation="magic"), UsageError, "sequential, associative"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
