"""minGRU with spatial kernels: a gate and a candidate that see the frame alone, so the recurrence is linear.

z_t = sigmoid(conv_z x_t), c_t = g(conv_h x_t), h_t = (1 - z_t) h_{t-1} + z_t c_t, y_t = Dense(h_t), per pixel and
channel; conv is a depthwise K x K convolution and a Dense over channels; g(v) = v + 1/2 for v >= 0, sigmoid(v) below:
positive and increasing. z_t lies in [0, 1], so h_t is a convex combination of h_{t-1} and c_t:
0 <= h_t <= max(h_0, max c) by induction, however long the clip.

In logarithms (numerics="log", the source's form) the same recurrence is log h_t = logaddexp(log(1 - z_t) + log h_{t-1},
log z_t + log c_t). The linear scan multiplies by gates in [0, 1] and divides by nothing, so it needs no logarithms.

Source: docs/math.md section 3 (`mingru`); Feng et al. 2024, Were RNNs all we needed?, appendix B.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, Video
from cssm.ops import fft_conv2d, linear_scan

from ..mixer import MIXERS, Mixer, select
from ..parts.dense import Dense
from ..shared.bounds import dense_bound
from ..shared.pixel_memory import repeated
from ..shared.spectral import checked_margin
from ..shared.wide import wide


class MinGRUState(NamedTuple):
    memory: Float[Any, "b h w c"]


class SpatialDense(nnx.Module):
    """Depthwise K x K convolution (through the FFT where that is faster), then a Dense over channels."""

    def __init__(self, channels: int, kernel_size: int, boundary: str, *, rngs: nnx.Rngs):
        taps = jax.random.normal(rngs.params(), (channels, kernel_size, kernel_size)) / kernel_size
        self.boundary = boundary
        self.kernel = nnx.Param(taps)
        self.mix = Dense(channels, channels, rngs=rngs)

    def __call__(self, x):
        return self.mix(fft_conv2d(x, self.kernel[...].astype(x.dtype), boundary=self.boundary))

    def bound(self, input_bound: float) -> float:
        """The largest |output| for |x| <= input_bound."""
        taps = np.abs(np.asarray(self.kernel[...], np.float64)).sum((1, 2))
        return float(dense_bound(self.mix, taps * input_bound).max())


def positive(v):
    """g(v) = v + 1/2 for v >= 0, sigmoid(v) below."""
    return jnp.where(v >= 0, jnp.maximum(v, 0) + 0.5, jax.nn.sigmoid(v))


def log_positive(v):
    """log g(v)."""
    return jnp.where(v >= 0, jnp.log(jnp.maximum(v, 0) + 0.5), jax.nn.log_sigmoid(v))


@MIXERS.register("mingru")
class MinGRU(Mixer):
    """minGRU with spatial kernels in its gate and its candidate; states stay within the range of the candidates.

    Args:
      channels: C. kernel_size: taps K of both depthwise kernels, init N(0, 1 / K^2). boundary: "circular", or "zero".
      numerics: how `scan` runs the recurrence: "direct", or "log", the source's log-space form: slower, same numbers.
        `step` and `static` are direct.

    >>> from flax import nnx
    >>> MinGRU(4, kernel_size=3, rngs=nnx.Rngs(0))(jnp.zeros((1, 3, 8, 8, 4))).shape
    (1, 3, 8, 8, 4)
    """

    closed_form = ("last", "mean")

    def __init__(
        self, channels: int, *, kernel_size: int = 11, boundary: str = "circular", numerics: str = "direct",
        rngs: nnx.Rngs,
    ):  # fmt: skip
        checked_margin("mingru", kernel_size, 1.0, boundary, None)
        if numerics not in ("direct", "log"):
            raise UsageError(f"mingru: unknown numerics {numerics!r}, use direct or log")
        self.channels, self.numerics = channels, numerics
        self.gate = SpatialDense(channels, kernel_size, boundary, rngs=rngs)
        self.candidate = SpatialDense(channels, kernel_size, boundary, rngs=rngs)
        self.out = Dense(channels, channels, rngs=rngs)

    def init_state(self, batch: int, grid: Grid) -> MinGRUState:
        return MinGRUState(jnp.zeros((batch, *grid, self.channels), jnp.float32))

    def state_bound(self, grid: Grid, input_bound: float = 1.0) -> float:
        """The largest candidate: g(v) <= |v| + 1/2."""
        return self.candidate.bound(input_bound) + 0.5

    def _step(self, state: MinGRUState, x: Frame) -> tuple[MinGRUState, Frame]:
        decay, write = _gates(*self.logits(x))
        memory = decay * state.memory + write
        return MinGRUState(memory), self.out(memory.astype(x.dtype))

    def _scan(self, state: MinGRUState, x: Video, *, reset=None, readout="all") -> tuple[MinGRUState, Video | Frame]:
        gate, candidate = (v.reshape(x.shape) for v in self.logits(x.reshape(-1, *x.shape[2:])))
        recurrence = _direct if self.numerics == "direct" else _in_logarithms
        memory = recurrence(gate, candidate, state.memory, reset)
        # y is linear in the memory, so the mean y is the y of the mean memory
        return MinGRUState(memory[:, -1]), self.out(select(memory, readout).astype(x.dtype))

    def _static(self, state: MinGRUState, x: Frame, steps: int, *, readout) -> tuple[MinGRUState, Frame]:
        decay, write = _gates(*self.logits(x))
        memory, shown = repeated(decay, write, state.memory, steps, readout)
        return MinGRUState(memory), self.out(shown.astype(x.dtype))

    def logits(self, x):
        """The gate's and the candidate's arguments, float32, for frames (N, H, W, C)."""
        return wide(self.gate(x)), wide(self.candidate(x))


def _gates(gate, candidate):
    """(1 - z, z c); 1 - z as a sigmoid, without cancellation."""
    return jax.nn.sigmoid(-gate), jax.nn.sigmoid(gate) * positive(candidate)


def _direct(gate, candidate, memory, reset):
    decay, write = _gates(gate, candidate)
    return linear_scan(decay, write, memory, reset=reset)


def _in_logarithms(gate, candidate, memory, reset):
    """h_t = e^{A_t} h_0 + e^{B_t}, (A, B) the prefixes of (log(1 - z), log(z c)): h_0 = 0 needs no logarithm."""
    decay, write = jax.nn.log_sigmoid(-gate), jax.nn.log_sigmoid(gate) + log_positive(candidate)
    if reset is not None:
        decay = jnp.where(reset[:, :, None, None, None], -jnp.inf, decay)

    def combine(early, late):
        return early[0] + late[0], jnp.logaddexp(early[1] + late[0], late[1])

    from_state, from_input = lax.associative_scan(combine, (decay, write), axis=1)
    return jnp.exp(from_state) * memory[:, None] + jnp.exp(from_input)
