import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from cssm.core.errors import ShapeError, UsageError
from cssm.ops import spectral
from cssm.ops.spectral import (
    READOUTS,
    cases,
    kernel_spectrum,
    spectral_pooled,
    spectral_scan,
    spectral_static,
    stable_spectrum,
)
from made import values_and_gradients
from tolerances import assert_close

FAST = ("native", "stream", "clip", "parallel")


def arguments(shape, seed=0):
    b, t, h, w, c = shape
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(rng.normal(size=(c, 3, 3)))
    spectrum = stable_spectrum(kernel_spectrum(kernel, (h, w)))
    state = spectral.to_spectrum(jnp.asarray(rng.normal(size=(b, h, w, c))))
    return jnp.asarray(rng.normal(size=shape)), spectrum, state, jnp.asarray(rng.random((b, t)) < 0.3)


@pytest.mark.parametrize("name", cases.TESTS)
@pytest.mark.parametrize("readout", READOUTS)
def test_equals_reference_with_every_gradient(x64, name, readout):
    *arrays, resets = arguments(cases.TESTS[name])

    @jax.jit
    def run(x, spectrum, state):
        found = {}
        for implementation, reset in itertools.product((*FAST, "reference"), (None, resets)):
            options = {"readout": readout, "reset": reset, "implementation": implementation}
            function = lambda x, k, s: spectral_scan(x, k, state=s, **options)  # noqa: B023, E731
            found[implementation, reset is None] = values_and_gradients(function, x, spectrum, state)
        return [(found[i, r], found["reference", r]) for i, r in found]

    for fast, slow in run(*arrays):
        assert_close(fast, slow)


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("readout", READOUTS)
def test_gradients_agree_with_finite_differences(x64, implementation, readout):
    x, _, state, _ = arguments((1, 3, 4, 5, 2))

    def run(x, kernel, state):
        spectrum = stable_spectrum(kernel_spectrum(kernel, (4, 5)))
        return spectral_scan(x, spectrum, state=state, readout=readout, implementation=implementation)

    kernel = jnp.asarray(np.random.default_rng(3).normal(size=(2, 3, 3)))
    check_grads(run, (x, kernel, state), order=1, modes=("rev",), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("readout", ["last", "mean"])
def test_static_equals_the_repeated_frame(x64, steps, readout):
    x, spectrum, state, _ = arguments((2, 1, 5, 6, 2))

    def plain(x, spectrum, state):
        video = jnp.broadcast_to(x[:, None], (2, steps, 5, 6, 2))
        return spectral_scan(video, spectrum, state=state, readout=readout, implementation="stream")

    def closed(x, spectrum, state):
        return spectral_static(x, spectrum, steps, state=state, readout=readout)

    arrays = x[:, 0], spectrum, state
    both = jax.jit(lambda *v: [values_and_gradients(f, *v) for f in (closed, plain)])
    assert_close(*both(*arrays))


def test_static_is_exact_at_gain_one(x64):
    _, y = spectral_static(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 2), complex), 1000)
    np.testing.assert_allclose(y, 1000.0, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("with_reset", [False, True])
def test_pooled_is_the_spatial_mean(x64, readout, with_reset):
    x, spectrum, state, reset = arguments((2, 5, 6, 7, 3))
    options = {"readout": readout, "reset": reset if with_reset else None}
    plain = values_and_gradients(
        lambda x, k: spectral_scan(x, k, state=state, **options)[1].mean((-3, -2)), x, spectrum
    )
    assert_close(values_and_gradients(lambda x, k: spectral_pooled(x, k, state=state, **options), x, spectrum), plain)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(shape=st.tuples(*(st.integers(1, n) for n in (2, 6, 9, 9, 3))), cut=st.integers(0, 5), seed=st.integers(0, 99))
def test_cutting_a_clip_changes_nothing(shape, cut, seed):
    x, spectrum, state, reset = arguments(shape, seed)
    cut = cut % shape[1]
    whole_state, whole = spectral_scan(x, spectrum, state=state, reset=reset)
    parts = []
    for piece in (slice(0, cut), slice(cut, None)):
        if x[:, piece].shape[1]:
            state, y = spectral_scan(x[:, piece], spectrum, state=state, reset=reset[:, piece])
            parts.append(y)
    assert_close((state, jnp.concatenate(parts, 1)), (whole_state, whole))


def convolve_circularly(x, k):
    """Direct sum over taps, origin at the middle one: the definition."""
    out, origin = np.zeros_like(x), np.array(k.shape) // 2
    for i, j in itertools.product(*map(range, k.shape)):
        out += k[i, j] * np.roll(x, (i - origin[0], j - origin[1]), (0, 1))
    return out


@pytest.mark.parametrize("taps", [(1, 1), (3, 3), (4, 5), (9, 11)])
@pytest.mark.parametrize("grid", [(8, 8), (7, 6), (1, 5)])
def test_kernel_spectrum_is_circular_convolution_folded_not_cropped(x64, taps, grid):
    rng = np.random.default_rng(0)
    k, x = rng.normal(size=taps), rng.normal(size=grid)
    got = np.fft.irfft2(np.fft.rfft2(x) * np.asarray(kernel_spectrum(jnp.asarray(k), grid)), s=grid)
    np.testing.assert_allclose(got, convolve_circularly(x, k), atol=1e-12)


def test_corner_origin_reproduces_the_reference_code(x64):
    k = np.random.default_rng(0).normal(size=(3, 3))
    padded = np.pad(k, [((8 - 3) // 2, 8 - 3 - (8 - 3) // 2)] * 2)
    np.testing.assert_allclose(
        kernel_spectrum(jnp.asarray(k), (8, 8), origin="corner"), np.fft.rfft2(padded), atol=1e-12
    )


def test_stable_spectrum_is_inside_the_disc_with_a_finite_gradient_at_zero(x64):
    z = jnp.array([0.0, 1e-300, 1.0 + 1j, 1e30j])
    assert bool((jnp.abs(stable_spectrum(z)) <= 0.999).all())
    slope = jax.grad(lambda x: stable_spectrum(x * jnp.exp(0.3j)).real)(0.0)
    np.testing.assert_allclose(slope, 0.999 * np.cos(0.3))


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("with_reset", [False, True])
def test_reduced_gradient_saves_nothing_that_grows_with_time(implementation, readout, with_reset):
    def saved(steps):
        x, reset = jnp.zeros((1, steps, 8, 8, 2)), jnp.zeros((1, steps), bool) if with_reset else None
        spectrum = jnp.zeros((2, 8, 5), jnp.complex64)
        run = lambda x, k: spectral_scan(x, k, readout=readout, reset=reset, implementation=implementation)  # noqa: E731
        leaves = jax.tree.leaves(jax.vjp(run, x, spectrum)[1])
        return sum(leaf.nbytes for leaf in leaves if leaf.dtype != bool)  # the resets themselves aside

    assert saved(64) == saved(2)


@pytest.mark.slow
def test_bfloat16_video_gives_finite_gradients_and_a_float32_state():
    x, spectrum, _, _ = arguments((2, 5, 8, 8, 3))
    x = x.astype(jnp.bfloat16)
    for readout, implementation in itertools.product(READOUTS, FAST):
        run = lambda x: spectral_scan(x, spectrum, readout=readout, implementation=implementation)  # noqa: B023, E731
        state, y = run(x)
        assert (state.dtype, y.dtype) == (jnp.complex64, jnp.bfloat16)
        assert bool(jnp.isfinite(jax.grad(lambda x: run(x)[1].astype(jnp.float32).sum())(x)).all())  # noqa: B023


X, K = jnp.zeros((1, 2, 4, 4, 3)), jnp.zeros((3, 4, 3), jnp.complex64)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: spectral_scan(X[0], K), ShapeError, "x has shape"),
        (lambda: spectral_scan(X[:, :0], K), ShapeError, "at least one frame"),
        (lambda: spectral_scan(X.astype(int), K), ShapeError, "int32"),
        (lambda: spectral_scan(X, K[:2]), ShapeError, "spectrum has shape"),
        (lambda: spectral_scan(X, K, state=K), ShapeError, "state has shape"),
        (lambda: spectral_scan(X, K, reset=jnp.zeros((2, 1), bool)), ShapeError, "reset has shape"),
        (lambda: spectral_scan(X, K, lift=jnp.ones((2, 3))), ShapeError, "lift has shape"),
        (lambda: spectral_scan(X, K, readout="first"), UsageError, "all, last, mean"),
        (lambda: spectral_scan(X, K, implementation="magic"), UsageError, "stream"),
        (lambda: spectral_static(X[:, 0], K, 0), ShapeError, "steps is 0"),
        (lambda: spectral_static(X[:, 0], K, 2, readout="all"), UsageError, "last or mean"),
        (lambda: kernel_spectrum(jnp.zeros((3, 3)), (4, 4), origin="middle"), UsageError, "center or corner"),
        (lambda: kernel_spectrum(jnp.zeros((3, 5)), (4, 4), origin="corner"), ShapeError, "3 x 5 taps .* 4 x 4"),
        (lambda: stable_spectrum(K, rho=1.5), UsageError, "rho"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
