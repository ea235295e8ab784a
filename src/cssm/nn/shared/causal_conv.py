"""Depthwise convolutions with zeros outside: over past frames (streams, with its last frames as state), over pixels."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from cssm.core.errors import UsageError
from cssm.core.typing import Float, Frame, Grid, Video

from .wide import wide


class CausalConv(nnx.Module):
    """y_t = b + sum_j k_j x_{t-j} per channel, j = 0..taps-1; frames before the start, or before a reset, are zeros.

    The state is the last taps - 1 frames (B, taps - 1, H, W, C), float32 at least.

    >>> from flax import nnx
    >>> conv = CausalConv(2, 4, rngs=nnx.Rngs(0))
    >>> past, y = conv.scan(conv.init_state(1, (3, 3)), jnp.ones((1, 5, 3, 3, 2)))
    >>> past.shape, y.shape
    ((1, 3, 3, 3, 2), (1, 5, 3, 3, 2))
    """

    def __init__(self, channels: int, taps: int, *, rngs: nnx.Rngs):
        if taps < 1:
            raise UsageError(f"causal convolution over time: {taps} taps, expected at least one")
        self.channels, self.taps = channels, taps
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (taps, channels)) / np.sqrt(taps))  # tap 0 is now
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def init_state(self, batch: int, grid: Grid):
        return jnp.zeros((batch, self.taps - 1, *grid, self.channels), jnp.float32)

    def step(self, past: Float[jax.Array, "b p h w c"], x: Frame):
        """(past, y) of one frame."""
        past, y = self.scan(past, x[:, None])
        return past, y[:, 0]

    def scan(self, past: Float[jax.Array, "b p h w c"], x: Video, reset=None):
        """(past, y) of a clip, whose reset (B, T) forgets all frames before that one."""
        steps, before = x.shape[1], self.taps - 1
        frames = jnp.concatenate([past.astype(x.dtype), x], 1)
        kernel, bias = self.kernel[...], self.bias[...]
        if reset is None:
            return wide(frames[:, steps:]), bias + _lagged(frames, kernel)
        clip = jnp.cumsum(jnp.pad(reset, [(0, 0), (before, 0)]), 1)  # b before+t
        now, y = clip[:, before:], bias
        for lag in range(self.taps):
            at = slice(before - lag, before - lag + steps)
            y = y + kernel[lag] * _masked(frames[:, at], clip[:, at] == now)
        past = _masked(frames[:, steps:], clip[:, steps:] == now[:, -1:])
        return wide(past), y

    def bound(self, input_bound) -> np.ndarray:
        """(C,): the largest |y|."""
        return _bound(self.kernel[...], self.bias[...], input_bound)


class DepthwiseConv(nnx.Module):
    """y = b + a K x K kernel per channel applied to every frame (..., H, W, C), zeros outside the grid."""

    def __init__(self, channels: int, kernel_size: int, *, rngs: nnx.Rngs):
        if kernel_size < 1:
            raise UsageError(f"depthwise convolution: kernel_size is {kernel_size}, expected at least one tap")
        shape = (kernel_size, kernel_size, channels)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) / kernel_size)
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x):
        return self.bias[...] + _correlate(x, self.kernel[...])

    def bound(self, input_bound) -> np.ndarray:
        """(C,): the largest |y|."""
        return _bound(self.kernel[...], self.bias[...], input_bound)


@jax.custom_vjp
def _correlate(x, kernel):
    """sum_ij kernel[i, j] x[h + i - K // 2, w + j - K // 2], (..., H, W, C)."""
    return _sum_of_shifts(x, kernel, kernel.shape[0] // 2)


def _forward(x, kernel):
    return _correlate(x, kernel), (x, kernel)


def _backward(saved, g):
    """dx by the kernel turned by half a turn; dk over rows, with pixels and channels side by side, and on CPU a frame
    at a time, in cache."""
    x, kernel = saved
    taps, (height, width, channels) = kernel.shape[0], x.shape[-3:]

    def add(total, frames):
        padded, g = _padded(frames[0], taps, taps // 2), frames[1]
        padded, g = (v.reshape(*v.shape[:-2], -1) for v in (padded, g))
        shifted = lambda i, j: padded[..., i : i + height, j * channels : (j + width) * channels]  # noqa: E731
        inner = lambda i, j: jnp.sum(g * shifted(i, j), range(g.ndim - 1))  # noqa: E731
        return total + jnp.stack([jnp.stack([inner(i, j) for j in range(taps)]) for i in range(taps)]), None

    start = jnp.zeros((taps, taps, width * channels), g.dtype)
    frames = tuple(v.reshape(-1, *x.shape[-3:]) for v in (x, g))
    slope, _ = lax.scan(add, start, frames) if jax.default_backend() == "cpu" else add(start, frames)
    slope = slope.reshape(taps, taps, width, channels).sum(2)
    dx = _sum_of_shifts(g, kernel[::-1, ::-1], taps - 1 - taps // 2)
    return dx.astype(x.dtype), slope.astype(kernel.dtype)


_correlate.defvjp(_forward, _backward)


def _sum_of_shifts(x, kernel, before: int) -> Any:
    """A sum of shifts: XLA's grouped convolution is slower on CPU."""
    taps, (height, width) = kernel.shape[0], x.shape[-3:-1]
    padded = _padded(x, taps, before)
    shifts = ((i, j) for i in range(taps) for j in range(taps))
    return sum(kernel[i, j] * padded[..., i : i + height, j : j + width, :] for i, j in shifts)


def _padded(x, taps: int, before: int):
    around = (before, taps - 1 - before)
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [around, around, (0, 0)])


@jax.custom_vjp
def _lagged(frames, kernel):
    """sum_j kernel[j] frames_{t-j}: (B, taps - 1 + T, ...) -> (B, T, ...)."""
    before, steps = len(kernel) - 1, frames.shape[1] - len(kernel) + 1
    return sum(tap * frames[:, before - lag : before - lag + steps] for lag, tap in enumerate(kernel))


def _lagged_forward(frames, kernel):
    return _lagged(frames, kernel), (frames, kernel)


def _lagged_backward(saved, g):
    """d frames_s = sum_j kernel[j] g_{s+j}, in one pass; autodiff pads and adds each tap."""
    frames, kernel = saved
    before, steps = len(kernel) - 1, g.shape[1]
    around = jnp.pad(g, [(0, 0), (before, before)] + [(0, 0)] * (g.ndim - 2))
    slope = lambda start: jnp.sum(g * lax.dynamic_slice_in_dim(frames, start, steps, 1), range(g.ndim - 1))  # noqa: E731
    slopes = lax.map(slope, before - jnp.arange(len(kernel)))
    return _lagged(around, kernel[::-1]).astype(frames.dtype), slopes.astype(kernel.dtype)


_lagged.defvjp(_lagged_forward, _lagged_backward)


def _masked(term, alive):
    return jnp.where(alive[:, :, None, None, None], term, 0)


def _bound(kernel, bias, input_bound) -> np.ndarray:
    """|y_c| <= sum of |taps| times the bound on x_c, and |b_c|."""
    kernel, bias = (np.abs(np.asarray(v, np.float64)) for v in (kernel, bias))
    return kernel.reshape(-1, kernel.shape[-1]).sum(0) * input_bound + bias
