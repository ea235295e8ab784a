"""Slow and obvious: the sum as it is written, and the algorithm of the reference code."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cssm.core.typing import Inexact


def opt_ssm_forward_direct(
    x: Inexact[Any, "b t i"], K: Inexact[Any, "l n"], B_: Inexact[Any, "n i"], C: Inexact[Any, "o n"]
) -> Inexact[Array, "b t o"]:
    """The sum itself, K (taps, N): quadratic in L."""
    length, taps = x.shape[1], K.shape[0]
    lag = np.subtract.outer(np.arange(length), np.arange(length))
    toeplitz = jnp.where(((lag >= 0) & (lag < taps))[..., None], K[np.clip(lag, 0, taps - 1)], 0)
    y = jnp.einsum("on,tjn,nh,bjh->bto", C, toeplitz, B_, x, precision="highest")
    return y if jnp.iscomplexobj(x) else y.real


def opt_ssm_forward_reference(
    x: Inexact[Any, "b t i"], K: Inexact[Any, "l n"], B_: Inexact[Any, "n i"], C: Inexact[Any, "o n"]
) -> Inexact[Array, "b t o"]:
    """The reference algorithm, K (L, N): complex transforms of length 2 L, contracted from left to right.

    Its first product, (2 L, H_in, N) per example, is made for one example at a time, since it would not fit otherwise.
    """
    length = x.shape[1]
    kernel = jnp.fft.fft(K.astype(jnp.promote_types(K.dtype, jnp.complex64)), n=2 * length, axis=0)

    def one(x):
        spectrum = jnp.fft.fft(x.astype(kernel.dtype), n=2 * length, axis=0)
        product = spectrum[:, :, None] * kernel[:, None, :]
        states = jnp.einsum("lhn,nh->ln", product, B_.astype(kernel.dtype))
        return jnp.fft.ifft(jnp.einsum("ln,on->lo", states, C.astype(kernel.dtype)), axis=0)[:length]

    y = lax.map(one, x)
    return y if jnp.iscomplexobj(x) else y.real
