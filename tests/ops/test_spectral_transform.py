"""rfft2 and irfft2 by the compiled kernel: XLA's numbers, under every transformation, forward and reverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm.ops.spectral import to_space, to_spectrum
from cssm.ops.spectral.native_transform import plain_to_space, plain_to_spectrum
from cssm.shared import radix_plan


@pytest.fixture(autouse=True)
def however_few(monkeypatch):
    """The compiled kernel for one channel too, where it would not be picked."""
    monkeypatch.setattr(radix_plan, "FULL", 0)


SHAPES = [(3, 7, 9, 20), (2, 5, 1, 33), (2, 3, 4, 5, 6)]
SHAPES += [pytest.param(shape, marks=pytest.mark.slow) for shape in ((2, 8, 8, 3), (1, 1, 6, 1), (1, 61, 12, 2))]


def near(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13 * float(jnp.abs(other).max()))


def arrays(shape, seed=0):
    rng = np.random.default_rng(seed)
    half = (*shape[:-3], shape[-1], shape[-3], shape[-2] // 2 + 1)
    spectrum = rng.normal(size=half) + 1j * rng.normal(size=half)  # not of a real field: read as irfft2 reads it
    return jnp.asarray(rng.normal(size=shape)), jnp.asarray(spectrum), shape[-2]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_tangents_and_cotangents(x64, shape):
    x, spectrum, width = arrays(shape)
    tangent, cotangent, _ = arrays(shape, 1)
    pairs = (
        (to_spectrum, plain_to_spectrum, x, tangent, cotangent),
        (lambda s: to_space(s, width), lambda s: plain_to_space(s, width), spectrum, cotangent, tangent),
    )
    for ours, plain, at, along, back in pairs:
        near(jax.jvp(ours, (at,), (along,)), jax.jvp(plain, (at,), (along,)))
        near(jax.vjp(ours, at)[1](back), jax.vjp(plain, at)[1](back))
        square = lambda run: lambda v: jnp.sum(jnp.abs(run(v)) ** 4)  # noqa: E731
        second = lambda run: jax.grad(lambda v: jnp.sum(jnp.abs(jax.grad(square(run))(v)) ** 2))(at)  # noqa: B023, E731
        near(second(ours), second(plain))


def test_under_vmap_scan_and_single_precision(x64):
    x, spectrum, _ = arrays((4, 2, 6, 5, 3))
    near(jax.vmap(to_spectrum, 1, 1)(x), plain_to_spectrum(x))
    last = jnp.moveaxis(spectrum, 1, -1)
    near(jax.vmap(lambda s: to_space(s, 5), -1, 1)(last), plain_to_space(spectrum, 5))
    found = jax.lax.scan(lambda total, frame: (total + to_spectrum(frame), None), jnp.zeros_like(spectrum[0]), x)[0]
    near(found, plain_to_spectrum(x.sum(0)))
    single = to_spectrum(x.astype(jnp.float32))
    assert single.dtype == jnp.complex64 and to_space(single, 5).dtype == jnp.float32
    assert to_spectrum(x.astype(jnp.bfloat16)).dtype == jnp.complex64
    assert float(jnp.abs(to_space(single, 5) - x).max()) < 2e-6


def test_the_compiled_kernel_is_what_runs(monkeypatch):
    text = jax.jit(to_spectrum).lower(jnp.ones((2, 8, 8, 3))).as_text()
    assert "cssm_cpu" in text and "stablehlo.fft" not in text
    assert "stablehlo.fft" in jax.jit(to_spectrum).lower(jnp.ones((2, 8, 131, 3))).as_text()
    monkeypatch.setattr(radix_plan, "FULL", 0.5)
    few, enough = (jax.jit(to_spectrum).lower(jnp.ones((1, 8, 9, channels))).as_text() for channels in (7, 8))
    assert "stablehlo.fft" in few and "cssm_cpu" in enough
