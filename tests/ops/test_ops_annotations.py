"""The annotations of public operators are true of what they may be given: NumPy, tracers, any float, Python numbers."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from cssm import ops

LOG_A, X = -np.ones((2, 3, 4), np.float32), np.ones((2, 3, 4, 5), np.float32)
CLIP, GAIN = np.ones((1, 3, 4, 4, 2), np.float32), np.full((2, 4, 3), 0.5 + 0j, np.complex64)
TOKENS, GATE = np.ones((1, 3, 2, 4), np.float32), np.full((1, 3, 2), 0.5, np.float32)
CALLS = {
    "linear_scan": (ops.linear_scan, (0.5, X)),
    "decay_scan": (ops.decay_scan, (LOG_A, X)),
    "decay_scan_cumsum": (ops.decay_scan_cumsum, (LOG_A, X)),
    "spectral_scan": (ops.spectral_scan, (CLIP, GAIN)),
    "spectral_static": (lambda *a: ops.spectral_static(*a, 3), (CLIP[:, 0], GAIN)),
    "spectral_pooled": (ops.spectral_pooled, (CLIP, GAIN)),
    "kernel_spectrum": (lambda k: ops.kernel_spectrum(k, (4, 4)), (X[0],)),
    "delta_rule": (ops.delta_rule, (TOKENS, TOKENS, TOKENS, GATE, GATE)),
    "decayed_attention": (ops.decayed_attention, (TOKENS[:, :, 0], TOKENS[:, :, 0], TOKENS, -GATE)),
    "fft_conv": (lambda x, k: ops.fft_conv("bln,ln->bln", x, k), (TOKENS[..., 0], GATE[0])),
    "fft_conv2d": (ops.fft_conv2d, (CLIP[:, 0], np.ones((2, 3, 3), np.float32))),
    "opt_ssm_scan": (ops.opt_ssm_scan, (GATE, np.ones(2, np.float32), np.eye(2, dtype="f"), np.eye(2, dtype="f"))),
    "to_goom": (ops.goom.to_goom, (X,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_numpy_and_tracers_are_taken(name):
    function, arrays = CALLS[name]
    for found, traced in zip(
        jax.tree.leaves(function(*arrays)), jax.tree.leaves(jax.jit(function)(*arrays)), strict=True
    ):
        np.testing.assert_allclose(found, traced, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["decay_scan", "spectral_scan", "fft_conv2d", "to_goom"])
def test_half_and_double_precision_are_taken(x64, name):
    function, arrays = CALLS[name]
    for dtype in (ml_dtypes.bfloat16, np.float16, np.float64):
        last = len(arrays) - 1 if name == "decay_scan" else 0  # x
        given = [a.astype(dtype) if i == last else a for i, a in enumerate(arrays)]
        found = jax.tree.leaves(function(*given))[-1]
        assert found.dtype == (dtype if name != "to_goom" else jnp.promote_types(dtype, jnp.complex64))
