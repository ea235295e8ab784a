"""Few channels lifted to many: the compiled kernel and the plain chunks against the reference on all channels."""

from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm.ops.spectral import spectral_scan, to_spectrum
from cssm.ops.spectral.native_call import without_compiled_kernels

READOUTS = pytest.mark.parametrize("readout", ["last", "mean"])
ONE_IN_TIME = pytest.mark.parametrize("readout", ["mean", pytest.param("last", marks=pytest.mark.slow)])


def arguments(shape=(2, 5, 6, 7, 3), channels=5, seed=0, dtype=np.float32):
    b, _, h, w, r = shape
    rng = np.random.default_rng(seed)
    make = lambda *shape: jnp.asarray(rng.normal(size=shape).astype(dtype))  # noqa: E731
    k = to_spectrum(jnp.moveaxis(make(channels, h, w), 0, -1))
    return make(*shape), make(r, channels), 0.9 * k / (1 + jnp.abs(k)), to_spectrum(make(b, h, w, channels))


def lifted(u, lift, spectrum, state, **options):
    return spectral_scan(u, spectrum, lift=lift, state=state, **options)


def on_all_channels(u, lift, spectrum, state, **options):
    return spectral_scan(u @ lift, spectrum, state=state, implementation="reference", **options)


def loss(run, *arrays, **options):
    final, y = run(*arrays, **options)
    return jnp.sum(y**2) + jnp.sum(final.real * final.imag + final.imag**2) / final[0].size


def near(found, expected, tolerance=1e-11):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * float(jnp.abs(other).max() + 1e-30))


@pytest.mark.parametrize("without", [nullcontext, without_compiled_kernels], ids=["compiled", "plain"])
@pytest.mark.parametrize(
    ("shape", "channels"),
    [((2, 5, 6, 7, 3), 5), pytest.param((3, 1, 8, 8, 1), 20, marks=pytest.mark.slow), ((1, 37, 5, 9, 2), 8),
     pytest.param((2, 3, 1, 2, 9), 17, marks=pytest.mark.slow)], ids=str,
)  # fmt: skip
@READOUTS
def test_values_and_every_gradient(x64, shape, channels, readout, without):
    arrays = arguments(shape, channels, dtype=np.float64)
    every = jax.value_and_grad(partial(loss, readout=readout), (1, 2, 3, 4))
    with without():
        found = lifted(*arrays, readout=readout), jax.jit(every, static_argnums=0)(lifted, *arrays)
    near(found, (on_all_channels(*arrays, readout=readout), every(on_all_channels, *arrays)))


@pytest.mark.slow
@READOUTS
def test_second_derivatives(x64, readout):
    arrays = arguments((1, 3, 4, 5, 2), 5, dtype=np.float64)

    def slope(run, *arrays):
        gradient = jax.grad(partial(loss, run, readout=readout), (0, 1, 2, 3))(*arrays)
        return sum(jnp.sum(jnp.abs(g) ** 2) / g.size for g in gradient)

    near(*(jax.grad(partial(slope, run), (0, 1, 2, 3))(*arrays) for run in (lifted, on_all_channels)))


@ONE_IN_TIME
def test_vmap_over_clips_lifts_and_kernels(readout):
    u, lift, spectrum, state = arguments((6, 4, 5, 6, 2), 9)
    u, state = u.reshape(3, 2, *u.shape[1:]), state.reshape(3, 2, *state.shape[1:])
    lifts, spectra = jnp.stack([lift, -lift, 2 * lift]), jnp.stack([spectrum, spectrum / 2, -spectrum])
    for axes in ((0, None, None, 0), (0, 0, None, 0), (None, None, 0, None)):
        pairs = zip(axes, (u, lifts, spectra, state), (u[0], lift, spectrum, state[0]), strict=True)
        given = [many if axis == 0 else one for axis, many, one in pairs]
        runs = [jax.grad(partial(loss, run, readout=readout), (0, 1, 2, 3)) for run in (lifted, on_all_channels)]
        near(*(jax.vmap(run, axes)(*given) for run in runs), 2e-5)


def test_single_precision_the_same_bits_every_time_and_nan_in_its_row():
    u, *others = arguments((3, 6, 8, 8, 4), 24)
    run = jax.jit(jax.grad(partial(loss, lifted, readout="last"), (0, 1, 2, 3)))
    first = run(u, *others)
    near(first, jax.grad(partial(loss, on_all_channels, readout="last"), (0, 1, 2, 3))(u, *others), 2e-5)
    for _ in range(5):
        assert all((a == b).all() for a, b in zip(run(u, *others), first, strict=True))
    y = lifted(u.at[1, 2, 3, 3, 0].set(jnp.nan), *others, readout="last")[1]
    assert jnp.isnan(y[1]).any() and jnp.isfinite(y[0]).all() and jnp.isfinite(y[2]).all()
