"""The mechanism: the same recurrence through the FFT, and in space, one frame at a time or in parallel.

Fair versions: the spatial ones convolve with the 11 x 11 kernel itself, never with a kernel padded to the image, and as
a sum of shifted images (here twice as fast as XLA's grouped convolution). In parallel the kernel cannot stay small:
K^n has n (11 - 1) + 1 taps, the whole grid after two doublings. Source: 003 Methods, section 1.1.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from cssm.nn.shared.in_space import in_space_parallel, in_space_sequential
from cssm.ops import kernel_spectrum, spectral_scan

from .frameworks import forward
from .harness import Comparison
from .registry import OP_BENCHES

SHAPE, TAPS = (1, 64, 32, 32, 32), 11


@OP_BENCHES.register("mechanism")
def mechanism() -> Iterator[Comparison]:
    """The recurrence through the FFT against the same one in space, sequential and parallel: forward, same kernel."""
    x = jax.random.normal(jax.random.key(0), SHAPE)
    kernel = jax.random.normal(jax.random.key(1), (SHAPE[-1], TAPS, TAPS))
    kernel = 0.9 * kernel / jnp.abs(kernel).sum((1, 2), keepdims=True)
    contenders = {
        "through the FFT": lambda: forward(_spectral, x, kernel),
        "in space, sequential": lambda: forward(in_space_sequential, x, kernel),
        "in space, parallel": lambda: forward(in_space_parallel, x, kernel),
    }
    yield Comparison(name=f"mechanism {SHAPE}, kernel {TAPS} x {TAPS}, forward", contenders=contenders)


def _spectral(x, kernel):
    return spectral_scan(x, kernel_spectrum(kernel, x.shape[2:4]))[1]
