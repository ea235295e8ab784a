import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cssm.ops
from cssm.core.errors import ShapeError, UsageError
from cssm.ops.scan import cases
from tolerances import assert_close

torch = pytest.importorskip("torch")
from cssm.torch import decay_scan, decay_scan_cumsum, ssm_scan_triton  # noqa: E402

ON_CPU = ("sequential", "chunked")


def arguments(shape, seed=0, dtype=torch.float32, resets=0.2):
    rng = np.random.default_rng(seed)
    log_a = torch.from_numpy(-rng.exponential(size=shape[:3]))
    log_a[torch.from_numpy(rng.random(shape[:3]) < resets)] = -torch.inf
    x, h0 = (torch.from_numpy(rng.normal(size=s)) for s in (shape, (shape[0], *shape[2:])))
    decay_dtype = torch.promote_types(dtype, torch.float32)
    return log_a.to(decay_dtype), x.to(dtype), h0.to(decay_dtype)


def loop(log_a, x, h0):
    """The recurrence, one step after another."""
    states, h = [], h0
    for t in range(x.shape[1]):
        h = log_a[:, t].exp()[..., None] * h + x[:, t]
        states.append(h)
    return torch.stack(states, 1)


def outputs_and_gradients(function, *args):
    args = [arg.detach().clone().requires_grad_() for arg in args]
    h = function(*args)
    weight = torch.sin(torch.arange(h.numel(), dtype=torch.float64)).reshape(h.shape)
    gradients = torch.autograd.grad((weight * h).sum(), args)
    return [value.detach().double().numpy() for value in (h, *gradients)]


@pytest.mark.parametrize("implementation", ON_CPU)
@pytest.mark.parametrize("name", cases.DECAY_TESTS)
def test_equals_the_loop_with_every_gradient(name, implementation):
    arrays = arguments(cases.DECAY_TESTS[name], dtype=torch.float64)
    fast = lambda *args: decay_scan(*args, implementation=implementation)  # noqa: E731
    assert_close(outputs_and_gradients(fast, *arrays), outputs_and_gradients(loop, *arrays))
    nothing = torch.zeros_like(arrays[2])
    expected = outputs_and_gradients(lambda log_a, x: loop(log_a, x, nothing), *arrays[:2])
    assert_close(outputs_and_gradients(fast, *arrays[:2]), expected)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 5), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    implementation=st.sampled_from(ON_CPU), resets=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape_dtype_and_resets(shape, dtype, implementation, resets, seed):
    arrays = arguments(shape, seed, dtype, resets)
    h = decay_scan(*arrays, implementation=implementation)
    assert h.dtype == dtype and h.shape == arrays[1].shape
    fast = lambda *args: decay_scan(*args, implementation=implementation)  # noqa: E731
    limit = {torch.float32: 3e-6, torch.float64: 1e-11}.get(dtype, 2e-2)
    expected = outputs_and_gradients(loop, *(array.double() for array in arrays))
    found = outputs_and_gradients(fast, *arrays)
    assert_close(found, expected, limit=limit)
    assert np.all(found[1][torch.isinf(arrays[0]).numpy()] == 0)


def test_equals_jax_to_1e_6():
    arrays = arguments((2, 37, 5, 6))

    def loss(*args):
        h = cssm.ops.decay_scan(*args)
        weight = jnp.sin(jnp.arange(h.size)).reshape(h.shape)
        return jnp.sum(weight * h), h

    (_, h), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*(a.numpy() for a in arrays))
    found = outputs_and_gradients(decay_scan, *arrays)
    assert_close(found, [np.asarray(value) for value in (h, *gradients)], limit=1e-6)


def test_the_sources_function_is_the_same_scan():
    log_a, x, h0 = arguments((2, 50, 3, 4), dtype=torch.float64, resets=0)
    expected = outputs_and_gradients(lambda a, x: loop(a.diff(dim=1, prepend=a[:, :1]), x, 0 * h0), log_a.cumsum(1), x)
    split = lambda a, x: ssm_scan_triton(a, x, use_assoc_scan=True)  # noqa: E731
    for function in (decay_scan_cumsum, ssm_scan_triton, split):
        assert_close(outputs_and_gradients(function, log_a.cumsum(1), x), expected)


def test_passes_gradcheck_and_refuses_a_second_derivative():
    arrays = [array.requires_grad_() for array in arguments((1, 5, 2, 3), dtype=torch.float64, resets=0)]
    assert torch.autograd.gradcheck(decay_scan, arrays)
    (gradient,) = torch.autograd.grad(decay_scan(*arrays).square().sum(), arrays[1], create_graph=True)
    with pytest.raises(UsageError, match="differentiated once"):
        gradient.sum().backward()


def test_forward_mode_is_refused():
    log_a, x, h0 = arguments((1, 5, 2, 3))
    with pytest.raises(UsageError, match="forward-mode"):
        torch.func.jvp(lambda x: decay_scan(log_a, x, h0), (x,), (x,))


@pytest.mark.parametrize("implementation", ON_CPU)
def test_growth_is_right_until_the_state_overflows(implementation):
    x = torch.zeros(1, 400, 1, 2)
    x[0, 0, 0, 0] = 1e-30
    log_a = torch.full((1, 400, 1), 0.5)  # the product over a chunk is e^100, beyond float32; channel 1 stays 0
    log_a[:, 250:] = -0.5
    h = decay_scan(log_a, x, implementation=implementation)
    assert_close(h.numpy(), loop(log_a, x, 0 * x[:, 0]).numpy())


def test_a_reset_forgets_even_a_poisoned_past():
    x, log_a = torch.ones(1, 5, 1, 2), torch.zeros(1, 5, 1)
    x[0, 1, 0], log_a[0, 2] = torch.tensor([torch.nan, torch.inf]), -torch.inf
    log_a.requires_grad_()
    h = decay_scan(log_a, x)[:, 2:]
    h.sum().backward()
    assert h.sum() == 12 and log_a.grad[0, 2:, 0].tolist() == [0.0, 4.0, 4.0]


def test_strides_do_not_matter():
    log_a, x, h0 = arguments((2, 9, 3, 4))
    turned = [value.mT.contiguous().mT for value in (log_a, x, h0)]
    assert not turned[1].is_contiguous()
    assert_close(outputs_and_gradients(decay_scan, *turned), outputs_and_gradients(decay_scan, log_a, x, h0))
    every_second = torch.randn(2, 18, 3, 4)[:, ::2]
    assert torch.equal(decay_scan(log_a, every_second), decay_scan(log_a, every_second.clone()))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_a_graph_break(unchecked, backend):
    arrays = arguments((2, 9, 3, 4))
    function = lambda log_a, x, h0: decay_scan(log_a - 0.1, x.sin(), h0).cos()  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    assert_close(outputs_and_gradients(compiled, *arrays), outputs_and_gradients(function, *arrays), limit=1e-6)


def test_two_threads_at_once():
    inputs = [arguments((2, 64, 8, 16), seed) for seed in range(4)]
    run = lambda arrays: outputs_and_gradients(decay_scan, *arrays)  # noqa: E731
    expected = [run(arrays) for arrays in inputs]
    with ThreadPoolExecutor(2) as pool:
        assert_close(list(pool.map(run, inputs * 8)), expected * 8, limit=1e-12)


ALONE = """
import os, torch
from cssm.torch import decay_scan
{body}
"""


def alone(body):
    """Run `body` in a fresh process; what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", ALONE.format(body=body)], capture_output=True, text=True, timeout=200, check=True
    )
    return result.stdout


@pytest.mark.slow
def test_works_after_a_fork():
    body = """
x = torch.ones(2, 64, 8, 16)
expected = decay_scan(-x[..., 0], x)
if (child := os.fork()) == 0:
    os._exit(0 if torch.equal(decay_scan(-x[..., 0], x), expected) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert alone(body).split() == ["0"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
def test_forward_holds_little_more_than_input_and_output():
    body = """
def memory(what):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(what))
decay_scan(torch.zeros(2, 8, 4), torch.zeros(2, 8, 4, 4))
log_a, before = -torch.rand(2, 1024, 64), memory("VmRSS")
x = torch.randn(2, 1024, 64, 64)
open("/proc/self/clear_refs", "w").write("5")
out = decay_scan(log_a, x)
print((memory("VmHWM") - before) / (x.numel() * 4))
"""
    assert 1.9 < float(alone(body)) <= 2.2


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ON_CPU)
def test_seventy_thousand_steps(implementation):
    arrays = arguments((1, 70_000, 2, 3), resets=0.001)
    fast = lambda *args: decay_scan(*args, implementation=implementation)  # noqa: E731
    found = outputs_and_gradients(fast, *arrays)
    with torch.no_grad():
        expected = loop(*(array.double() for array in arrays)).numpy()
    assert_close(found[0], expected, limit=3e-6)
    assert all(np.isfinite(value).all() for value in found)


LOG_A, X = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: decay_scan(LOG_A, X[0]), ShapeError, r"x has shape \(3, 4, 5\), expected \(B, T, R, C\)"),
        (lambda: decay_scan(LOG_A[:, :2], X), ShapeError, r"log_a has shape \(2, 2, 4\), expected \(2, 3, 4\)"),
        (lambda: decay_scan(LOG_A[:, :0], X[:, :0]), ShapeError, "at least one"),
        (lambda: decay_scan(LOG_A, X, X[:, 0, :2]), ShapeError, r"h0 has shape .*expected \(2, 4, 5\)"),
        (lambda: decay_scan(LOG_A, X.int()), ShapeError, "x is int32"),
        (lambda: decay_scan(LOG_A, X.cfloat()), ShapeError, "x is complex64"),
        (lambda: decay_scan(LOG_A.bfloat16(), X), ShapeError, "log_a is bfloat16, expected float32"),
        (lambda: decay_scan(LOG_A.half(), X), ShapeError, "log_a is float16, expected float32"),
        (lambda: ssm_scan_triton(LOG_A.bfloat16(), X), ShapeError, "cumsum_A is bfloat16"),
        (lambda: decay_scan_cumsum(LOG_A[0], X), ShapeError, "decay_scan_cumsum: cumsum_A has shape"),
        (lambda: decay_scan(LOG_A, X, implementation="associative"), UsageError, "use sequential, chunked, triton"),
        (lambda: decay_scan(LOG_A, X.to("meta")), UsageError, "tensors are on cpu, meta"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_triton_on_cpu_tensors_asks_for_cuda(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(UsageError, match="needs CUDA tensors"):
        decay_scan(LOG_A, X, implementation="triton")


@pytest.mark.parametrize("implementation", [*ON_CPU, "triton"])
@pytest.mark.parametrize("log_a, x", [(LOG_A[:0], X[:0]), (LOG_A[:, :, :0], X[:, :, :0]), (LOG_A, X[..., :0])])
def test_nothing_to_do_is_done(monkeypatch, implementation, log_a, x):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    run = lambda *args: decay_scan(*args, implementation=implementation)  # noqa: E731
    h, dlog_a, dx, dh0 = outputs_and_gradients(run, log_a, x, x[:, 0])
    assert h.shape == dx.shape == x.shape and dlog_a.shape == log_a.shape and dh0.shape == x[:, 0].shape
    assert not dlog_a.any()
