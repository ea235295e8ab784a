"""The JAX face of the Triton kernels: the real kernels, interpreted, behind a stand-in for jax_triton.triton_call."""

import sys
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from cssm.core.errors import UsageError  # noqa: E402
from cssm.kernels import spectral_schedule  # noqa: E402
from cssm.ops import accelerator, kernel_spectrum, spectral, spectral_scan, stable_spectrum  # noqa: E402
from tolerances import assert_close  # noqa: E402


def to_torch(array):
    array = np.asarray(array)
    if array.dtype == jnp.bfloat16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)


def to_numpy(tensor):
    return tensor.view(torch.int16).numpy().view(jnp.bfloat16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def triton_call(*args, kernel, out_shape, grid, num_warps, num_stages, **constants):
    """jax-triton's contract: arrays and Python scalars in order, then the outputs, unwritten; constants by name."""
    assert num_warps in (4, 8) and num_stages >= 1 and len(grid) == 3
    scalars = {i: a for i, a in enumerate(args) if isinstance(a, int)}

    def launch(*arrays):
        rest = iter(arrays)
        inputs = [scalars[i] if i in scalars else to_torch(next(rest)) for i in range(len(args))]
        outputs = [to_torch(np.full(s.shape, np.nan, s.dtype)) for s in out_shape]
        kernel[grid](*inputs, *outputs, **constants)
        return tuple(map(to_numpy, outputs))

    return jax.pure_callback(launch, tuple(out_shape), *(a for a in args if not isinstance(a, int)))


@pytest.fixture
def jax_triton(monkeypatch):
    module = types.ModuleType("jax_triton")
    module.triton_call = triton_call
    monkeypatch.setitem(sys.modules, "jax_triton", module)


@pytest.fixture
def chunks(monkeypatch):
    """Chunks of two frames, as on a machine with room for all of them."""
    monkeypatch.setattr(spectral_schedule, "PROGRAMS", 10**6)
    monkeypatch.setattr(spectral_schedule, "SHORTEST", 2)


def arguments(shape, dtype=np.float32):
    b, t, h, w, c = shape
    rng = np.random.default_rng(0)
    arrays = (rng.normal(size=s).astype(dtype) for s in (shape, (c, 3, 3), (b, h, w, c)))
    return *map(jnp.asarray, arrays), jnp.asarray(rng.random((b, t)) < 0.3)


def values_and_gradients(implementation, readout, reset, *arrays):
    """State and y, and the gradients of an uneven loss of both, to a real kernel and to real frames."""
    grid = arrays[0].shape[2:4]

    def loss(x, kernel, frame):
        options = {"readout": readout, "reset": reset, "implementation": implementation}
        spectrum = stable_spectrum(kernel_spectrum(kernel, grid))
        state, y = spectral_scan(x, spectrum, state=spectral.to_spectrum(frame), **options)
        outputs = y, spectral.to_space(state, grid[1])
        return sum((v * jnp.cos(jnp.arange(v.size)).reshape(v.shape)).sum() for v in outputs), (state, y)

    gradients, outputs = jax.grad(loss, (0, 1, 2), has_aux=True)(*arrays)
    return outputs, gradients


def check(shape, readout, with_reset):
    *arrays, reset = arguments(shape)
    run = lambda name, *arrays: values_and_gradients(name, readout, reset if with_reset else None, *arrays)  # noqa: E731
    slow = jax.jit(partial(run, "reference"))(*arrays)
    assert_close(jax.jit(partial(run, "triton"))(*arrays), slow, 1e-6)


@pytest.mark.parametrize("readout", spectral.READOUTS)
def test_equals_reference_with_every_gradient(jax_triton, readout):
    check((2, 2, 4, 6, 3), readout, with_reset=readout == "all")


@pytest.mark.parametrize("readout", ["all", "last"])
def test_in_chunks_equals_reference_with_every_gradient(jax_triton, chunks, readout):
    check((2, 3, 5, 3, 2), readout, with_reset=readout == "last")


def test_above_64_pixels(jax_triton):
    check((1, 3, 2, 66, 2), "all", with_reset=True)


def test_bfloat16_video_keeps_its_type(jax_triton):
    x, kernel, _, _ = arguments((1, 2, 4, 4, 2))
    spectrum, x = stable_spectrum(kernel_spectrum(kernel, (4, 4))), x.astype(jnp.bfloat16)

    def summed(x):
        state, y = spectral_scan(x, spectrum, implementation="triton")
        return y.astype(jnp.float32).sum(), (state, y)

    slope, (state, y) = jax.jit(jax.grad(summed, has_aux=True))(x)
    assert (state.dtype, y.dtype, slope.dtype) == (jnp.complex64, jnp.bfloat16, jnp.bfloat16)
    plain = jax.jit(partial(spectral_scan, spectrum=spectrum))(x.astype(jnp.float32))
    assert_close((state, y.astype(jnp.float32)), plain, 2e-2)
    assert bool(jnp.isfinite(slope).all())


X, K = jnp.zeros((1, 2, 4, 4, 3)), jnp.zeros((3, 4, 3), jnp.complex64)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax_triton", None)  # an import of it fails
    with pytest.raises(UsageError, match=r"jax-triton.*pip install"):
        spectral_scan(X, K, implementation="triton")


def test_a_cpu_is_refused_by_a_compiled_kernel(jax_triton, monkeypatch):
    import triton

    monkeypatch.setattr(triton, "JITFunction", object)  # as without TRITON_INTERPRET
    with pytest.raises(UsageError, match="backend is cpu"):
        spectral_scan(X, K, implementation="triton")


def test_float64_is_refused(x64):
    with pytest.raises(UsageError, match="float64"):
        spectral_scan(X.astype(jnp.float64), K, implementation="triton")


def test_a_gpu_takes_the_kernel_for_all_frames_where_it_can(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    large, state = jnp.zeros((1, 1, 4, 65, 1)), jnp.zeros((), jnp.complex64)
    for there in (True, False):
        monkeypatch.setattr(spectral, "has_jax_triton", lambda: there)  # noqa: B023
        assert spectral._pick(X, "all", state)[0] == ("triton" if there else "parallel")
        assert spectral._pick(X, "last", state)[0] == spectral._pick(large, "all", state)[0] == "parallel"
        assert spectral._pick(X, "all", np.zeros((), np.complex128))[0] == "parallel"
        monkeypatch.setattr(jax, "device_count", lambda: 2)
        assert spectral._pick(X, "all", state)[0] == "parallel"
        monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert not accelerator.has_jax_triton.__wrapped__()  # here, beside a CPU jaxlib
