import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cssm import ops  # noqa: E402
from cssm.core.errors import ShapeError, UsageError  # noqa: E402
from cssm.kernels import spectral_schedule  # noqa: E402
from cssm.ops.spectral import cases  # noqa: E402
from cssm.torch import kernel_spectrum, spectral_scan, spectral_static, stable_spectrum  # noqa: E402
from cssm.torch.spectral import IMPLEMENTATIONS, READOUTS  # noqa: E402
from cssm.torch.spectral.stream import to_space, to_spectrum  # noqa: E402
from tolerances import assert_close  # noqa: E402


@pytest.fixture
def chunks(monkeypatch):
    """Chunks of two frames, as on a machine with room for all of them."""
    monkeypatch.setattr(spectral_schedule, "PROGRAMS", 10**6)
    monkeypatch.setattr(spectral_schedule, "SHORTEST", 2)


def arguments(shape, dtype=torch.float64, seed=0):
    """Video, kernel (C, 3, 3), the frame of the state, and resets."""
    b, t, h, w, c = shape
    rng = np.random.default_rng(seed)
    arrays = rng.normal(size=shape), rng.normal(size=(c, 3, 3)), rng.normal(size=(b, h, w, c))
    return *(torch.tensor(a, dtype=dtype) for a in arrays), torch.tensor(rng.random((b, t)) < 0.3)


def values_and_gradients(x, kernel, frame, **options):
    """State and y, and the gradients of an uneven loss of both, to a real kernel and to real frames."""
    leaves = [v.clone().requires_grad_() for v in (x, kernel, frame)]
    spectrum = stable_spectrum(kernel_spectrum(leaves[1], tuple(x.shape[2:4])))
    state, y = spectral_scan(leaves[0], spectrum, state=to_spectrum(leaves[2]), **options)
    outputs = y, to_space(state, x.shape[3])
    loss = sum((v * torch.cos(torch.arange(v.numel(), dtype=v.dtype)).reshape(v.shape)).sum() for v in outputs)
    return [v.detach().numpy() for v in (state, y, *torch.autograd.grad(loss, leaves))]


@pytest.mark.parametrize("name", cases.TESTS)
@pytest.mark.parametrize("readout", READOUTS)
def test_equals_reference_with_every_gradient(name, readout):
    *arrays, resets = arguments(cases.TESTS[name])
    for reset in (None, resets):
        options = {"readout": readout, "reset": reset}
        slow = values_and_gradients(*arrays, implementation="reference", **options)
        for fast in ("native", "stream", "parallel"):
            assert_close(values_and_gradients(*arrays, implementation=fast, **options), slow, what=fast)


def check_triton(shape, readout, with_reset):
    *arrays, reset = arguments(shape)
    options = {"readout": readout, "reset": reset if with_reset else None}
    slow = values_and_gradients(*arrays, implementation="reference", **options)
    fast = values_and_gradients(*(a.float() for a in arrays), implementation="triton", **options)
    assert_close(fast, slow, 1e-6)


@pytest.mark.parametrize(
    ("name", "readout"),
    [*((name, "all") for name in cases.TESTS), *((name, "last") for name in ("odd", "one_frame", "one_row"))],
)
def test_triton_equals_reference_with_every_gradient(name, readout):
    check_triton(cases.TESTS[name], readout, with_reset=readout == "all")


@pytest.mark.parametrize(
    ("readout", "with_reset"), [("all", True), pytest.param("last", False, marks=pytest.mark.slow), ("last", True)]
)
def test_triton_in_chunks_equals_reference_with_every_gradient(chunks, readout, with_reset):
    check_triton((2, 3, 5, 7, 5), readout, with_reset)  # chunks of 2 and 1 frames; 4 + 1 channels


@pytest.mark.parametrize(("shape", "readout"), [((1, 2, 34, 5, 2), "all"), ((1, 2, 4, 40, 1), "mean")])
def test_triton_on_larger_blocks(shape, readout):
    check_triton(shape, readout, with_reset=False)


@pytest.mark.parametrize("readout", READOUTS)
def test_triton_above_64_pixels(readout):
    check_triton((2, 3, 3, 66, 2), readout, with_reset=readout != "last")


@settings(max_examples=8, deadline=None, derandomize=True)
@given(shape=st.tuples(*(st.integers(1, n) for n in (2, 5, 9, 9, 5))), cut=st.integers(0, 4), seed=st.integers(0, 99))
def test_cutting_a_clip_changes_nothing(shape, cut, seed):
    x, kernel, frame, reset = arguments(shape, torch.float32, seed)
    spectrum, cut = stable_spectrum(kernel_spectrum(kernel, shape[2:4])), cut % shape[1]
    state, parts = to_spectrum(frame), []
    whole = spectral_scan(x, spectrum, state=state, reset=reset, implementation="native")
    for piece in (slice(0, cut), slice(cut, None)):
        if x[:, piece].shape[1]:
            options = {"state": state, "reset": reset[:, piece], "implementation": "triton"}
            state, y = spectral_scan(x[:, piece], spectrum, **options)
            parts.append(y)
    assert_close([v.numpy() for v in (state, torch.cat(parts, 1))], [v.numpy() for v in whole])


@pytest.mark.parametrize("name", cases.TESTS)
def test_equals_jax(name):
    arrays = [a.float() for a in arguments(cases.TESTS[name])[:3]]
    grid = arrays[0].shape[2:4]

    def run(x, kernel, frame, readout):
        spectrum = ops.stable_spectrum(ops.kernel_spectrum(kernel, grid))
        state, y = ops.spectral_scan(x, spectrum, state=ops.spectral.to_spectrum(frame), readout=readout)
        outputs = y, ops.spectral.to_space(state, grid[1])
        return sum((v * jnp.cos(jnp.arange(v.size)).reshape(v.shape)).sum() for v in outputs), (state, y)

    @jax.jit
    def every(*arrays):
        slope = jax.grad(run, (0, 1, 2), has_aux=True)
        return [slope(*arrays, readout) for readout in READOUTS]

    for readout, (gradients, outputs) in zip(READOUTS, every(*map(jnp.asarray, arrays)), strict=True):
        found = values_and_gradients(*arrays, readout=readout)
        assert_close(found, [np.asarray(v) for v in (*outputs, *gradients)], 2e-6, readout)


def test_kernel_spectrum_and_static_equal_jax():
    x, kernel, frame, _ = arguments((2, 1, 5, 6, 2), torch.float32)
    for grid, origin in [*itertools.product(((5, 6), (2, 2), (1, 9)), ("center",)), ((5, 6), "corner")]:
        ours, theirs = (
            f(k, grid, origin=origin) for f, k in zip(KERNEL_SPECTRA, (kernel, kernel.numpy()), strict=True)
        )
        assert_close(ours.numpy(), np.asarray(theirs), 1e-6)
    spectrum, state = stable_spectrum(kernel_spectrum(kernel, (5, 6))), to_spectrum(frame)
    for readout, steps in itertools.product(("last", "mean"), (1, 2, 7)):
        ours = spectral_static(x[:, 0], spectrum, steps, state=state, readout=readout)
        plain = spectral_scan(x.expand(-1, steps, -1, -1, -1), spectrum, state=state, readout=readout)
        arrays = (jnp.asarray(v.numpy()) for v in (x[:, 0], spectrum))
        theirs = ops.spectral_static(*arrays, steps, state=jnp.asarray(state.numpy()), readout=readout)
        assert_close([v.numpy() for v in ours], [np.asarray(v) for v in theirs], 1e-6)
        assert_close([v.numpy() for v in ours], [v.numpy() for v in plain], 1e-6)


KERNEL_SPECTRA = kernel_spectrum, ops.kernel_spectrum


@pytest.mark.parametrize("implementation", ["native", "stream", "parallel"])
@pytest.mark.parametrize("readout", READOUTS)
def test_gradients_agree_with_finite_differences(implementation, readout):
    x, kernel, frame, _ = arguments((1, 3, 3, 4, 2))
    leaves = x, kernel_spectrum(kernel, (3, 4)) / 9, to_spectrum(frame)
    run = lambda x, k, s: spectral_scan(x, k, state=s, readout=readout, implementation=implementation)  # noqa: E731
    assert torch.autograd.gradcheck(run, [v.requires_grad_() for v in leaves], fast_mode=True)


def test_lifted_input_is_the_product():
    x, kernel, _, _ = arguments((1, 3, 4, 4, 3), torch.float32)
    spectrum, lift = stable_spectrum(kernel_spectrum(kernel, (4, 4))), torch.eye(3)[:2]
    _, y = spectral_scan(x[..., :2], spectrum, lift=lift)
    assert_close(y.numpy(), spectral_scan(x * torch.tensor([1.0, 1, 0]), spectrum)[1].numpy())


@pytest.mark.parametrize("implementation", ["native", "stream", "triton"])
def test_last_saves_nothing_that_grows_with_time(implementation):
    def saved(steps):
        x, kernel, _, _ = arguments((1, steps, 4, 4, 2), torch.float32)
        spectrum = kernel_spectrum(kernel.requires_grad_(), (4, 4)).detach().requires_grad_()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda v: sizes.append(v.numel()) or v, lambda v: v):
            spectral_scan(x.requires_grad_(), spectrum, readout="last", implementation=implementation)
        return sum(sizes)

    assert saved(9) == saved(2) > 0


@pytest.mark.parametrize("implementation", ["native", "stream", "parallel", "triton"])
def test_bfloat16_video_gives_finite_gradients_and_a_float32_state(implementation):
    x, kernel, _, _ = arguments((2, 4, 6, 5, 3), torch.float32)
    spectrum, x = stable_spectrum(kernel_spectrum(kernel, (6, 5))), x.bfloat16().requires_grad_()
    for readout in READOUTS:
        state, y = spectral_scan(x, spectrum, readout=readout, implementation=implementation)
        assert (state.dtype, y.dtype) == (torch.complex64, torch.bfloat16)
        full = spectral_scan(x.detach().float(), spectrum, readout=readout, implementation="stream")[1]
        assert_close(y.detach().float().numpy(), full.numpy(), 2e-2)
        (slope,) = torch.autograd.grad(y.float().sum(), x)
        assert slope.dtype == torch.bfloat16 and bool(slope.isfinite().all())


def test_a_restart_forgets_nan():
    x, kernel, _, _ = arguments((2, 4, 4, 4, 2), torch.float32)
    spectrum, reset = stable_spectrum(kernel_spectrum(kernel, (4, 4))), torch.zeros(2, 4, dtype=torch.bool)
    x[0, 1], reset[0, 2] = torch.nan, True
    for implementation in ("native", "stream", "parallel", "reference", "triton"):
        _, y = spectral_scan(x, spectrum, reset=reset, implementation=implementation)
        assert bool(y[1].isfinite().all() and y[0, 2:].isfinite().all() and y[0, 1].isnan().all()), implementation


@pytest.mark.parametrize("readout", ["all", "last"])
@pytest.mark.parametrize("implementation", ["native", "triton"])
def test_compiles_without_a_graph_break(unchecked, readout, implementation):
    x, kernel, _, _ = arguments((1, 2, 4, 4, 2), torch.float32)
    spectrum = stable_spectrum(kernel_spectrum(kernel, (4, 4)))
    run = lambda x: spectral_scan(x, spectrum, readout=readout, implementation=implementation)[1].sum()  # noqa: E731
    slopes = [torch.autograd.grad(f(leaf := x.clone().requires_grad_()), leaf)[0] for f in (
        torch.compile(run, fullgraph=True, backend="aot_eager"), run)]  # fmt: skip
    assert_close(*(v.numpy() for v in slopes))


@pytest.mark.parametrize("implementation", ["native", "stream", "triton"])
@pytest.mark.parametrize("readout", READOUTS)
def test_a_second_derivative_is_refused(implementation, readout):
    x, kernel, _, _ = arguments((1, 2, 4, 4, 2), torch.float32)
    spectrum = stable_spectrum(kernel_spectrum(kernel, (4, 4)))
    _, y = spectral_scan(x.requires_grad_(), spectrum, readout=readout, implementation=implementation)
    (slope,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    with pytest.raises(UsageError, match="second derivative"):
        slope.sum().backward()


def test_triton_refuses_forward_mode():
    x, kernel, _, _ = arguments((1, 2, 4, 4, 2), torch.float32)
    spectrum = stable_spectrum(kernel_spectrum(kernel, (4, 4)))
    with pytest.raises(UsageError, match="forward-mode"):
        torch.func.jvp(lambda x: spectral_scan(x, spectrum, implementation="triton")[1], (x,), (x,))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("readout", READOUTS)
def test_an_empty_batch_is_done(implementation, readout):
    x, kernel, frame, reset = arguments((0, 3, 4, 5, 2), torch.float32)
    found = values_and_gradients(x, kernel, frame, reset=reset, readout=readout, implementation=implementation)
    shapes = [(0, 2, 4, 3), (0, 3, 4, 5, 2) if readout == "all" else (0, 4, 5, 2), x.shape, kernel.shape, frame.shape]
    assert [v.shape for v in found] == shapes and not found[3].any()


X, K = torch.zeros(1, 2, 4, 4, 3), torch.zeros(3, 4, 3, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: spectral_scan(X[0], K), ShapeError, "x has shape"),
        (lambda: spectral_scan(X[:, :0], K), ShapeError, "at least one frame"),
        (lambda: spectral_scan(X.int(), K), ShapeError, "int32"),
        (lambda: spectral_scan(X, K.real), ShapeError, "complex"),
        (lambda: spectral_scan(X, K[:2]), ShapeError, "spectrum has shape"),
        (lambda: spectral_scan(X, K, state=K), ShapeError, "state has shape"),
        (lambda: spectral_scan(X, K, reset=torch.zeros(2, 1, dtype=torch.bool)), ShapeError, "reset has shape"),
        (lambda: spectral_scan(X, K, reset=torch.zeros(1, 2)), ShapeError, "reset is torch.float32, expected bool"),
        (lambda: spectral_scan(X, K.to("meta")), UsageError, "one device"),
        (lambda: spectral_scan(X, K, lift=torch.ones(2, 3)), ShapeError, "lift has shape"),
        (lambda: spectral_scan(X, K, readout="first"), UsageError, "all, last, mean"),
        (lambda: spectral_scan(X, K, implementation="magic"), UsageError, "stream"),
        (lambda: spectral_scan(X.double(), K, implementation="triton"), UsageError, "float64"),
        (lambda: spectral_static(X[:, 0], K, 0), ShapeError, "steps is 0"),
        (lambda: spectral_static(X[:, 0], K, 2, readout="all"), UsageError, "last or mean"),
        (lambda: kernel_spectrum(torch.zeros(3, 3), (4, 4), origin="middle"), UsageError, "center or corner"),
        (lambda: kernel_spectrum(torch.zeros(5, 3), (4, 4), origin="corner"), ShapeError, "5 x 3 taps .* 4 x 4"),
        (lambda: kernel_spectrum(torch.zeros(3, 3), (0, 4)), ShapeError, "expected"),
        (lambda: stable_spectrum(K, rho=1.5), UsageError, "rho"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


THREADS = """
import os, signal
import torch
from cssm.torch import spectral_scan
x = torch.randn(4, 3, 8, 9, 12, generator=torch.Generator().manual_seed(0))
run = lambda: spectral_scan(x, torch.full((12, 8, 5), 0.5 + 0.1j), implementation="native")[1]
expected = run()
torch.set_num_threads(1)
assert (run() == expected).all()
torch.set_num_threads(2)
child = os.fork()
if not child:
    signal.alarm(20)  # a team of threads that the parent left behind would be waited for
    os._exit(not (run() == expected).all())
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0)
"""


def test_with_one_thread_and_in_a_forked_child_the_same_bits():
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
