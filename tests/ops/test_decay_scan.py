from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cssm.core.errors import ShapeError, UsageError
from cssm.ops import decay_scan, decay_scan_cumsum
from cssm.ops.scan import cases, decay_scan_reference
from tolerances import assert_close

ON_CPU = ("sequential", "chunked", "associative")


def arguments(shape, seed=0, resets=0.2, growth=0.2):
    """log_a with resets (-inf) and growth (positive), x, h0, in float64."""
    rng = np.random.default_rng(seed)
    log_a = -rng.exponential(size=shape[:3])
    log_a = np.where(rng.random(shape[:3]) < growth, -0.3 * log_a, log_a)
    log_a[rng.random(shape[:3]) < resets] = -np.inf
    return log_a, rng.normal(size=shape), rng.normal(size=(shape[0], *shape[2:]))


def loop(log_a, x, h0):
    """The recurrence in float64 NumPy."""
    out, h = np.empty(x.shape), h0.astype(np.float64)
    for t in range(x.shape[1]):
        h = np.exp(log_a[:, t].astype(np.float64))[..., None] * h + x[:, t]
        out[:, t] = h
    return out


def outputs_and_gradients(function, *args):
    def loss(*args):
        h = function(*args)
        return jnp.sum(jnp.sin(jnp.arange(h.size)).reshape(h.shape) * h), h

    gradients, h = jax.grad(loss, tuple(range(len(args))), has_aux=True)(*args)
    return h, gradients


@pytest.mark.parametrize("name", cases.DECAY_TESTS)
def test_equals_reference_with_every_gradient(x64, name):
    arrays = arguments(cases.DECAY_TESTS[name])

    @jax.jit
    def run(log_a, x, h0):
        functions = [decay_scan_reference, *(partial(decay_scan, implementation=name) for name in ON_CPU)]
        return [(outputs_and_gradients(f, log_a, x, h0), outputs_and_gradients(f, log_a, x)) for f in functions]

    expected, *found = run(*arrays)
    assert_close(expected[0][0], loop(*arrays))
    for implementation, values in zip(ON_CPU, found, strict=True):
        assert_close(values, expected, what=implementation)


@jax.jit
def _run(log_a, x, h0):
    return outputs_and_gradients(partial(decay_scan, implementation="sequential"), log_a, x, h0)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(1, 1, 1, 1), (2, 7, 3, 4), (1, 31, 1, 9)]), dtype=st.sampled_from(["float32", "bfloat16"]),
    resets=st.sampled_from([0.0, 0.3, 1.0]), growth=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_dtype_and_resets(shape, dtype, resets, growth, seed):
    log_a, x, h0 = arguments(shape, seed, resets, growth)
    log_a, x, h0 = jnp.asarray(log_a, jnp.float32), jnp.asarray(x, dtype), jnp.asarray(h0, jnp.float32)
    h, (dlog_a, dx, dh0) = _run(log_a, x, h0)
    assert (h.dtype, dx.dtype, dlog_a.dtype, dh0.dtype) == (x.dtype, x.dtype, jnp.float32, jnp.float32)
    assert_close(h, loop(*(np.asarray(v, np.float64) for v in (log_a, x, h0))))
    assert bool(jnp.isfinite(dlog_a).all()) and bool((dlog_a[log_a == -jnp.inf] == 0).all())
    assert bool(jnp.isfinite(dx).all())


@pytest.mark.parametrize("implementation", ON_CPU)
def test_a_reset_forgets_even_a_poisoned_past(implementation):
    x = jnp.ones((1, 5, 1, 2)).at[0, 1, 0].set(jnp.array([jnp.nan, jnp.inf]))
    log_a = jnp.zeros((1, 5, 1)).at[0, 2].set(-jnp.inf)
    weight = jnp.zeros_like(x).at[:, 2:].set(1.0)
    loss = lambda log_a, x: jnp.where(weight > 0, decay_scan(log_a, x, implementation=implementation), 0).sum()  # noqa: E731
    value, (dlog_a, dx) = jax.jit(jax.value_and_grad(loss, (0, 1)))(log_a, x)
    assert value == 12 and dlog_a[0, 2:, 0].tolist() == [0.0, 4.0, 4.0] and dx[0, :, 0, 0].tolist() == [0, 0, 3, 2, 1]


def test_bfloat16_input_keeps_a_float32_carry():
    x = jnp.ones((1, 512, 1, 1), jnp.bfloat16)
    log_a = jnp.full((1, 512, 1), np.log(0.999), jnp.float32)
    h = decay_scan(log_a, x)
    assert h.dtype == jnp.bfloat16  # a bfloat16 carry would stop growing at 256
    assert_close(h, loop(np.asarray(log_a), np.ones(x.shape), np.zeros((1, 1, 1))))


@pytest.mark.parametrize("implementation", ON_CPU)
def test_cumsum_is_the_same_scan(x64, implementation):
    log_a, x, _ = arguments((2, 9, 3, 5), resets=0)
    run = jax.jit(partial(outputs_and_gradients, partial(decay_scan_cumsum, implementation=implementation)))
    slow = jax.jit(
        partial(outputs_and_gradients, lambda a, x: decay_scan_reference(jnp.diff(a, axis=1, prepend=a[:, :1]), x))
    )
    assert_close(run(log_a.cumsum(1), x), slow(log_a.cumsum(1), x))
    assert_close(run(log_a.cumsum(1), x)[0], loop(log_a, x, np.zeros_like(x[:, 0])))


def test_minus_infinity_does_not_come_back_from_a_cumsum():
    cumsum = jnp.array([0.0, -1.0, -jnp.inf, -jnp.inf]).reshape(1, 4, 1)
    h = jax.jit(decay_scan_cumsum)(cumsum, jnp.ones((1, 4, 1, 1)))[0, :, 0, 0]
    assert h[2] == 1 and bool(jnp.isnan(h[3])) and bool(jnp.isfinite(h[:3]).all())


def test_a_long_cumsum_loses_digits_that_log_a_keeps():
    rng = np.random.default_rng(0)
    log_a = -rng.random((1, 65536, 2)).astype(np.float32)
    x = rng.normal(size=(1, 65536, 2, 2)).astype(np.float32)
    expected = loop(log_a, x, np.zeros((1, 2, 2)))
    assert_close(decay_scan(log_a, x), expected, limit=3e-7)
    error = decay_scan_cumsum(np.cumsum(log_a, 1, dtype=np.float32), x) - expected
    assert 1e-5 < float(np.abs(error).max() / np.abs(expected).max()) < 5e-3


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ON_CPU)
def test_seventy_thousand_steps(implementation):
    log_a, x, h0 = (v.astype(np.float32) for v in arguments((1, 70_000, 2, 3), growth=0, resets=0.001))
    run = jax.jit(partial(outputs_and_gradients, partial(decay_scan, implementation=implementation)))
    h, (dlog_a, _, _) = run(log_a, x, h0)
    assert_close(h, loop(log_a, x, h0))
    assert bool(jnp.isfinite(dlog_a).all())


LOG_A, X = jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 4, 5))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: decay_scan(LOG_A, X[0]), ShapeError, r"x has shape \(3, 4, 5\), expected \(B, T, R, C\)"),
        (lambda: decay_scan(LOG_A[:, :2], X), ShapeError, r"log_a has shape \(2, 2, 4\), expected \(2, 3, 4\)"),
        (lambda: decay_scan(LOG_A[:, :0], X[:, :0]), ShapeError, "at least one"),
        (lambda: decay_scan(LOG_A, X, X[:, 0, :2]), ShapeError, r"h0 has shape .*expected \(2, 4, 5\)"),
        (lambda: decay_scan(LOG_A, X.astype(int)), ShapeError, "x is int32"),
        (lambda: decay_scan(LOG_A, X.astype(complex)), ShapeError, "x is complex64"),
        (lambda: decay_scan(LOG_A.astype(int), X), ShapeError, "log_a is int32"),
        (lambda: decay_scan(LOG_A.astype(jnp.bfloat16), X), ShapeError, "log_a is bfloat16, expected float32"),
        (lambda: decay_scan(LOG_A.astype(jnp.float16), X), ShapeError, "log_a is float16, expected float32"),
        (lambda: decay_scan_cumsum(LOG_A.astype(jnp.bfloat16), X), ShapeError, "cumsum_A is bfloat16"),
        (lambda: decay_scan_cumsum(LOG_A[0], X), ShapeError, "decay_scan_cumsum: cumsum_A has shape"),
        (lambda: decay_scan(LOG_A, X, implementation="magic"), UsageError, "use sequential, chunked"),
        (lambda: decay_scan(LOG_A, X, implementation="triton"), UsageError, "needs"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_gpu_takes_the_kernel_where_it_can(monkeypatch):
    from cssm.ops.scan import decay

    log_a, x = jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3, 4))
    assert decay._pick(log_a, x, None) == "sequential"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for gpus, there in ((1, True), (1, False), (2, True)):
        monkeypatch.setattr(jax, "device_count", lambda: gpus)  # noqa: B023
        monkeypatch.setattr(decay, "has_jax_triton", lambda: there)  # noqa: B023
        assert decay._pick(log_a, x, None) == ("triton" if gpus == 1 and there else "associative")
        assert decay._pick(log_a, np.zeros(x.shape), None) == "associative"
