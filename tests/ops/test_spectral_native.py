"""The compiled kernel in JAX programs: every transformation, odd inputs, and the same bits whoever computes them.

Values and gradients against the reference: tests/ops/test_spectral.py.
"""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm.core.errors import UsageError
from cssm.kernels import xla_cpu
from cssm.ops.spectral import spectral_explain, spectral_scan

native = partial(spectral_scan, implementation="native")
plain = partial(spectral_scan, implementation="stream")


READOUTS = pytest.mark.parametrize("readout", ["all", "last", pytest.param("mean", marks=pytest.mark.slow)])


def arguments(shape=(2, 5, 6, 7, 3), seed=0, dtype=np.float32):
    b, _, h, w, c = shape
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=shape).astype(dtype))
    k = np.fft.rfft2(rng.normal(size=(c, h, w)))
    state = np.fft.rfft2(rng.normal(size=(b, c, h, w)))
    compound = np.complex128 if dtype == np.float64 else np.complex64
    return x, jnp.asarray((0.9 * k / (1 + abs(k))).astype(compound)), jnp.asarray(state.astype(compound))


def loss(run, x, spectrum, state, **options):
    final, y = run(x, spectrum, state=state, **options)
    return jnp.sum(y**2) + jnp.sum(final.real * final.imag + final.imag**2) / final[0].size


def near(found, expected, tolerance=2e-6):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * float(jnp.abs(other).max() + 1e-30))


@pytest.mark.parametrize("shape", [(3, 4, 8, 8, 24), (1, 2, 97, 61, 16), (5, 3, 9, 4, 1)], ids=str)
@READOUTS
def test_lanes_of_any_number_of_channels_and_rows(shape, readout):
    arrays = arguments(shape)
    reset = jnp.asarray(np.random.default_rng(1).random(shape[:2]) < 0.3)
    for options in ({}, {"reset": reset}):
        gradient = jax.grad(lambda run, *a: loss(run, *a, readout=readout, **options), (1, 2, 3))  # noqa: B023
        near(native(arrays[0], arrays[1], state=arrays[2], readout=readout, **options),
             plain(arrays[0], arrays[1], state=arrays[2], readout=readout, **options))  # fmt: skip
        near(gradient(native, *arrays), gradient(plain, *arrays), 5e-6)


@READOUTS
def test_vmap_over_clips_and_over_kernels(readout):
    x, spectrum, state = arguments((6, 4, 5, 6, 2))
    x, state = x.reshape(3, 2, *x.shape[1:]), state.reshape(3, 2, *state.shape[1:])
    kernels = jnp.stack([spectrum, spectrum / 2, -spectrum])
    reset = jnp.asarray(np.random.default_rng(2).random((3, 2, 4)) < 0.4)
    for axes in ((0, None, 0, 0), (0, 0, 0, 0), (0, None, None, None), (None, 0, None, None)):
        given = [a if axis == 0 else b for axis, a, b in zip(
            axes, (x, kernels, state, reset), (x[0], spectrum, state[0], reset[0]), strict=True)]  # fmt: skip

        def run(which, x, k, s, r):
            return jax.grad(partial(loss, which, readout=readout, reset=r), (0, 1, 2))(x, k, s)

        near(jax.vmap(partial(run, native), axes)(*given), jax.vmap(partial(run, plain), axes)(*given), 5e-6)


@READOUTS
def test_second_derivatives(x64, readout):
    arrays = arguments((1, 3, 4, 5, 2), dtype=np.float64)

    def slope(run, *arrays):
        gradient = jax.grad(partial(loss, run, readout=readout), (0, 1, 2))(*arrays)
        return sum(jnp.sum(jnp.abs(g) ** 2) / g.size for g in gradient)

    near(*(jax.grad(partial(slope, run), (0, 1, 2))(*arrays) for run in (native, plain)), 1e-10)


def test_inside_scan_and_checkpoint_with_donation():
    x, spectrum, state = arguments()

    def twice(run, x, spectrum, state):
        step = jax.checkpoint(lambda carry, _: run(x, spectrum, state=carry))
        final, ys = jax.lax.scan(step, state, None, length=2)
        return jnp.sum(jnp.abs(final) ** 2) + jnp.sum(ys**2)

    near(*(jax.jit(jax.grad(partial(twice, run), (0, 1, 2)))(x, spectrum, state) for run in (native, plain)), 5e-6)
    donated = jax.jit(lambda x: native(x, spectrum)[1], donate_argnums=0)
    expected = plain(x, spectrum)[1]
    near(donated(x + 0), expected)


def test_over_the_batch_by_shard_map():
    x, spectrum, state = arguments()
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, all_of_it = jax.sharding.PartitionSpec("rows"), jax.sharding.PartitionSpec()
    split = jax.shard_map(
        lambda x, k, s: native(x, k, state=s), mesh=mesh, in_specs=(rows, all_of_it, rows), out_specs=(rows, rows),
        check_vma=False,
    )  # fmt: skip
    near(jax.jit(split)(x, spectrum, state), plain(x, spectrum, state=state))


def test_nan_stays_in_its_row_and_resets_forget_it():
    x, spectrum, _ = arguments((3, 4, 6, 5, 5))
    poisoned = x.at[1, 1].set(jnp.nan)
    y, clean = native(poisoned, spectrum)[1], native(x, spectrum)[1]
    assert np.array_equal(y[::2], clean[::2]) and np.array_equal(y[1, 0], clean[1, 0])
    assert np.isnan(y[1, 1:]).all()
    reset = jnp.zeros((3, 4), bool).at[1, 2].set(True)
    assert np.isfinite(native(poisoned, spectrum, reset=reset)[1][1, 2:]).all()


def test_denormals_and_long_clips(x64):
    x, spectrum, _ = arguments((1, 70_000, 2, 2, 1))
    expected = spectral_scan(x.astype(np.float64), spectrum.astype(np.complex128), implementation="native")[1]
    near(native(x, spectrum)[1], expected, 1e-5)
    tiny = native(np.asarray(x[:, :50]) * np.float32(1e-42), spectrum)[1]  # threads may take such numbers for 0
    assert np.abs(np.asarray(tiny)).max() < 1e-36


def test_the_same_bits_every_time_and_with_any_number_of_threads():
    arrays = arguments((4, 6, 8, 8, 32))
    run = jax.jit(jax.value_and_grad(partial(loss, native), (0, 1, 2)))
    first = jax.tree.leaves(run(*arrays))
    before = xla_cpu._table[0]
    try:
        for threads in (1, 2, 1, 2, 2, 2, 2, 2, 2):
            xla_cpu._table[0] = threads
            assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(run(*arrays)), first, strict=True))
    finally:
        xla_cpu._table[0] = before


def test_a_kernel_that_is_not_there_is_an_error_of_the_program():
    x, spectrum, _ = arguments((1, 2, 4, 4, 2))
    run = jax.jit(lambda x: native(x, spectrum)[1])
    run(x)
    address, xla_cpu._table[2] = xla_cpu._table[2], 0
    try:
        with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match="not compiled in this process"):
            jax.block_until_ready(run(x))
    finally:
        xla_cpu._table[2] = address
    assert np.isfinite(run(x)).all()


def test_explain_says_what_is_picked_and_why(monkeypatch):
    x, spectrum, _ = arguments((1, 2, 4, 131, 8))
    assert spectral_explain(x) == "clip: not the compiled kernel, the width 131 has a prime factor above 127"
    with pytest.raises(UsageError, match="the width 131 has a prime factor"):
        native(x, spectrum)
    assert spectral_explain(x[..., :97, :]).startswith("native: ")
    assert "7 in all, fill less than half of a vector of 16" in spectral_explain(x[..., :97, :7])
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert spectral_explain(x[..., :97, :], "last").startswith("stream: not the compiled kernel, XLA does")
    monkeypatch.setattr(
        sys.modules["cssm.ops.spectral.native_call"],
        "unavailable",
        lambda: "XLA's C interface has version 1, 0 is known",
    )
    assert "version 1" in spectral_explain(x[..., :97, :])


CHILD = """
import sys, multiprocessing as mp
import numpy as np
def child(queue):
    import jax.numpy as jnp
    from cssm.ops import spectral_scan
    y = spectral_scan(jnp.ones((1, 3, 4, 4, 2)), jnp.full((2, 4, 3), 0.5 + 0j), implementation="native")[1]
    queue.put(np.asarray(y)[0, :, 0, 0, 0].tolist())
if __name__ == "__main__":
    context = mp.get_context(sys.argv[1])
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(queue.get(timeout=120))
    process.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_a_process_of_its_own(tmp_path, method):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    run = subprocess.run([sys.executable, str(script), method], capture_output=True, text=True, timeout=200)
    assert run.stdout.strip() == "[1.0, 1.5, 1.75]", run.stderr
