from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import signal
from scipy.linalg import expm

from cssm.core.errors import ShapeError, UsageError
from cssm.ops import s4_kernel, s4d_kernel
from cssm.ops.s4 import cases, cauchy, diagonal, dplr, kernel_reference, s4_matrices, s4d_matrices
from cssm.shared.hippo import initial_parameters
from tolerances import assert_close

DISCS = ("zoh", "bilinear")
IMPLEMENTATIONS = ("krylov", "cauchy")


def parameters(kernel, case, seed=0):
    """A, (P,) B, C, dt of perturbed initial systems, float64, different in every head."""
    rng = np.random.default_rng(seed)
    held = initial_parameters(kernel, case.init, case.d_state)
    bend = lambda *shape: 1 + 0.1 * rng.normal(size=shape)  # noqa: E731
    heads, half = case.heads, case.d_state // 2
    to_complex = lambda v: v[..., 0] + 1j * v[..., 1]  # noqa: E731
    A = -np.exp(held["log_A_real"]) * bend(heads, half) + 1j * held["A_imag"] * bend(heads, half)
    B = to_complex(held["B"]) * bend(heads, half)
    C = rng.normal(size=(case.channels, heads, half)) + 1j * rng.normal(size=(case.channels, heads, half))
    dt = np.exp(rng.uniform(np.log(0.01), np.log(0.3), heads))
    P = [to_complex(held["P"])[:, None] * bend(len(held["P"]), heads, half)] if kernel == "s4" else []
    return [jnp.asarray(v) for v in (A, *P, B, C, dt)]


def single(arrays):
    return [v.astype(jnp.complex64 if jnp.iscomplexobj(v) else jnp.float32) for v in arrays]


def taps_and_gradients(function, arrays):
    weight = lambda K: jnp.cos(jnp.arange(K.size, dtype=K.dtype)).reshape(K.shape)  # noqa: E731
    loss = lambda *a: (lambda K: jnp.sum(weight(K) * K + K**2))(function(*a))  # noqa: E731
    return function(*arrays), jax.grad(loss, tuple(range(len(arrays))))(*arrays)


def reference(kernel, length, **options):
    matrices = s4_matrices if kernel == "s4" else partial(s4d_matrices, **options)
    return lambda *arrays: kernel_reference(*matrices(*arrays), length)


def compare(fast, slow, arrays, limit=None, gradients=True):
    outcome = taps_and_gradients if gradients else lambda f, a: f(*a)
    got, expected = jax.jit(lambda *a: [outcome(f, a) for f in (fast, slow)])(*arrays)
    assert_close(got, expected, limit)


@pytest.mark.parametrize("disc", DISCS)
@pytest.mark.parametrize("name", cases.DIAGONAL_TESTS)
def test_s4d_equals_the_dense_recurrence_with_every_gradient(x64, name, disc):
    case = cases.DIAGONAL_TESTS[name]
    fast = lambda *a: s4d_kernel(*a, case.length, disc=disc)  # noqa: E731
    compare(fast, reference("s4d", case.length, disc=disc), parameters("s4d", case), gradients=case.length > 1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", cases.TESTS)
def test_s4_equals_the_dense_recurrence_with_every_gradient(x64, name, implementation):
    case = cases.TESTS[name]
    fast = lambda *a: s4_kernel(*a, case.length, implementation=implementation)  # noqa: E731
    compare(fast, reference("s4", case.length), parameters("s4", case), 1e-10, gradients=case.length > 1)


def test_any_rank(x64):
    A, P, B, C, dt = parameters("s4", cases.Case("legt", 2, 6, 1, 7))
    arrays = A, jnp.concatenate([P, 1j * jnp.flip(P)]), B, C, dt
    compare(lambda *a: s4_kernel(*a, 7, implementation="cauchy"), reference("s4", 7), arrays, 1e-10, gradients=False)


def test_pieces_of_the_cauchy_matrix_change_nothing(x64, monkeypatch):
    arrays = parameters("s4", cases.TESTS["legs"])
    run = lambda *a: jax.jit(lambda *a: s4_kernel(*a, 24, implementation="cauchy"))(*a)  # noqa: E731
    whole = run(*arrays)
    monkeypatch.setattr(cauchy, "ENTRIES", 70)  # 12 entries per frequency, 13 frequencies: 3 pieces
    assert_close(run(*arrays), whole)


def discrete(continuous, dt, method):
    A, B, C = continuous
    return signal.cont2discrete((A, B[:, None], C[None], np.zeros((1, 1))), dt, method=method)


def scipy_taps(continuous, dt, method, length):
    """The impulse response of scipy's discretisation; y_t = C x_t with x_t driven by u_t: one step ahead of scipy's."""
    A, B, C, D, _ = discrete(continuous, dt, method)
    if method == "bilinear":  # scipy moves half a step into B, C and D; undo it: the pair (A_bar, dt (I - dt A/2)^-1 B)
        left = np.eye(len(A)) - dt / 2 * continuous[0]
        C, B = continuous[2][None], np.linalg.solve(left, dt * continuous[1])[:, None]
    _, (response,) = signal.dimpulse((A, B, C, D * 0, 1.0), n=length + 1)
    return response[1:, 0]


def real_system(A, B, C, P=None):
    """The complex system on [Re x, Im x]: real matrices, as a textbook has them."""
    half = len(A)
    a = np.block([[np.diag(A.real), -np.diag(A.imag)], [np.diag(A.imag), np.diag(A.real)]])
    for p in [] if P is None else P:
        a -= 2 * np.outer(np.concatenate([p.real, p.imag]), np.concatenate([p.real, p.imag]))
    assert a.shape == (2 * half, 2 * half)
    return a, np.concatenate([B.real, B.imag]), np.concatenate([2 * C.real, -2 * C.imag])


@pytest.mark.parametrize("disc", DISCS)
@pytest.mark.parametrize("init", ["legs", "lin", "inv", "quad", "real"])
def test_scipy_has_the_same_impulse_response_for_s4d(x64, init, disc):
    case = cases.Case(init, 2, 8, 1, 50)
    A, B, C, dt = parameters("s4d", case)
    K = jax.jit(lambda *a: s4d_kernel(*a, case.length, disc=disc))(A, B, C, dt)
    A, B, C, dt = map(np.asarray, (A, B, C, dt))
    expected = [scipy_taps(real_system(A[h], B[h], C[0, h]), dt[h], disc, 50) for h in range(2)]
    assert_close(K[0], np.stack(expected), 1e-10)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("init", ["legs", "legt", "fourier"])
def test_scipy_has_the_same_impulse_response_for_s4(x64, init, implementation):
    case = cases.Case(init, 2, 8, 1, 50)
    arrays = parameters("s4", case)
    K = jax.jit(lambda *a: s4_kernel(*a, case.length, implementation=implementation))(*arrays)
    A, P, B, C, dt = map(np.asarray, arrays)
    systems = [real_system(A[h], B[h], C[0, h], P[:, h]) for h in range(2)]
    expected = [scipy_taps(system, dt[h], "bilinear", 50) for h, system in enumerate(systems)]
    assert_close(K[0], np.stack(expected), 1e-10)


def systems(kernel, arrays):
    if kernel == "s4":
        return dplr, dplr.discretise(*arrays)
    return diagonal, diagonal.discretise(*arrays, kernel.removeprefix("s4d_"))


@pytest.mark.parametrize(("kernel", "length"), [("s4d_zoh", 23), ("s4d_bilinear", 1), ("s4", 23), ("s4", 1)])
def test_step_response_and_absorb_agree(x64, kernel, length):
    case = cases.Case("legs", 3, 6, 2, length)
    arrays = parameters(kernel[:3].rstrip("_"), case)
    rng = np.random.default_rng(2)
    start = jnp.asarray(rng.normal(size=(2, 3, 3)) + 1j * rng.normal(size=(2, 3, 3)))
    u = jnp.asarray(rng.normal(size=(2, 3, length)))

    @jax.jit
    def run(arrays, start, u):
        family, system = systems(kernel, arrays)
        plan = family.plan(system, length)
        K = family.kernel(system, plan, length)
        n = 2 * length
        y = jnp.fft.irfft(jnp.fft.rfft(u, n)[:, None] * jnp.fft.rfft(K, n), n)[..., :length]
        parallel = y + family.response(system, plan, start, length), family.absorb(system, plan, start, u)

        def step(state, u):
            state = family.step(system, state, u)
            return state, family.read(system, state)

        state, outputs = lax.scan(step, start, jnp.moveaxis(u, -1, 0))
        return parallel, (jnp.moveaxis(outputs, 0, -1), state)

    assert_close(*run(arrays, start, u), 1e-11)


@pytest.mark.parametrize(
    ("kernel", "init", "limit"),
    [("s4d", "lin", 1e-5), ("s4", "legs", 5e-6)],
)
def test_float32_at_length_1024(kernel, init, limit):
    """Of the size of the errors that README.md states for N = 64."""
    arrays = single(parameters(kernel, cases.Case(init, 2, 32, 1, 1024)))
    function = s4_kernel if kernel == "s4" else s4d_kernel
    K = jax.jit(lambda *a: function(*a, 1024))(*arrays)
    A, *P, B, C, dt = (np.asarray(v).astype(np.promote_types(v.dtype, np.float64)) for v in arrays)
    for h in range(2):
        a, b, c = real_system(A[h], B[h], C[0, h], P[0][:, h] if P else None)
        if kernel == "s4":
            left = np.eye(32) - dt[h] / 2 * a
            a, x = np.linalg.solve(left, np.eye(32) + dt[h] / 2 * a), np.linalg.solve(left, dt[h] * b)
        else:
            a, x = expm(dt[h] * a), np.linalg.solve(a, (expm(dt[h] * a) - np.eye(32)) @ b)
        expected = np.zeros(1024)
        for step in range(1024):
            expected[step], x = c @ x, a @ x
        assert_close(K[0, h], expected, limit, f"{kernel} {init}")


def test_a_mode_that_the_bilinear_rule_cancels(x64):
    """dt A = -2 gives A_bar = 0: one tap, and finite gradients."""
    A, one, dt = jnp.full((1, 1), -2 + 0j), jnp.ones((1, 1), complex), jnp.ones(1)
    fast = lambda *a: s4d_kernel(*a, 4, disc="bilinear")  # noqa: E731
    assert jax.jit(fast)(A, one, one[None], dt)[0, 0].tolist() == [1.0, 0.0, 0.0, 0.0]
    compare(fast, reference("s4d", 4, disc="bilinear"), [A, one, one[None], dt])


def test_an_integrator_is_the_limit_of_a_slow_mode(x64):
    A, one, dt = jnp.zeros((1, 1), complex), jnp.ones((1, 1), complex), jnp.full(1, 0.5)
    run = jax.jit(jax.value_and_grad(lambda A: s4d_kernel(A, one, one[None], dt, 3).sum()))
    value, gradient = run(A)
    assert abs(value - 3) < 1e-12 and bool(jnp.isfinite(gradient).all())


def arrays(**changed):
    held = {
        "A": jnp.full((2, 3), -1 + 0j),
        "P": jnp.ones((1, 2, 3), jnp.complex64),
        "B": jnp.ones((2, 3), jnp.complex64),
    }
    held |= {"C": jnp.ones((1, 2, 3), jnp.complex64), "dt": jnp.ones(2)} | changed
    return held


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"A": jnp.ones(3, jnp.complex64)}, r"A has shape \(3,\), expected \(H, n\)"),
        ({"B": jnp.ones((2, 4), jnp.complex64)}, r"B has shape \(2, 4\), expected \(2, 3\)"),
        ({"P": jnp.ones((2, 3), jnp.complex64)}, r"P has shape \(2, 3\), expected \(r, 2, 3\)"),
        ({"C": jnp.ones((1, 3, 3), jnp.complex64)}, r"C has shape \(1, 3, 3\), expected \(c, 2, 3\)"),
        ({"dt": jnp.ones(3)}, r"dt has shape \(3,\), expected \(2\)"),
        ({"dt": jnp.ones(2, int)}, "dt is int32, expected real"),
        ({"A": jnp.ones((2, 3))}, "A is float32, expected complex"),
        ({"length": 0}, "at least one tap"),
    ],
)
def test_bad_arrays_are_named(changed, says):
    held = arrays(**changed)
    with pytest.raises(ShapeError, match=says):
        s4_kernel(held["A"], held["P"], held["B"], held["C"], held["dt"], held.get("length", 4))


def test_unknown_names_are_refused():
    held = arrays()
    with pytest.raises(UsageError, match="zoh or bilinear"):
        s4d_kernel(held["A"], held["B"], held["C"], held["dt"], 4, disc="euler")
    with pytest.raises(UsageError, match="krylov or cauchy"):
        s4_kernel(*held.values(), 4, implementation="magic")
