"""Normalisation over clips: per pixel (layer), per sample (global_layer), per sample so far (global_layer_causal).

Each is (x - mean) / sqrt(variance + 1e-6) * scale + bias with scale and bias per channel; they differ in what the mean
and variance are taken over. Statistics are float32 (float64 for float64), of differences from a number of the data: a
mean 10,000 deviations from 0 costs no digits. Source: docs/math.md section 6.
"""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.registry import Registry
from cssm.core.typing import Float, Frame, Grid, Int, Video

from ..layer import Layer, check_state
from ..shared.running import compensated, counted
from ..shared.wide import wide

EPSILON = 1e-6
NORMS: Registry[type["Norm"]] = Registry("norm")


class Norm(Layer):
    """Abstract. One that is causal gives the same over any chunks of a clip as in one pass."""

    kind = "norm"
    instead = "use global_layer_causal or layer"

    def step(self, state, x: Frame) -> tuple[Any, Frame]:
        """One frame (B, H, W, C): the state after it, and the frame normalised. Raises ShapeError: as `scan`."""
        state, y = self.scan(state, x[:, None])
        return state, y[:, 0]

    def scan(self, state, x: Video) -> tuple[Any, Video]:
        """A clip (B, T, H, W, C) from a carried state: the state after it, and the clip normalised.

        Raises:
          ShapeError: a state of another batch, or of another norm.
        """
        check_state(state, x, self)
        return self._scan(state, x)

    def __call__(self, x: Video) -> Video:
        """The clip normalised, from no past."""
        return self._scan(self.init_state(x.shape[0], x.shape[2:4]), x)[1]

    def static(self, x: Frame) -> Frame:
        """One frame of a clip that repeats it: repeating a frame does not change its statistics."""
        return self(x[:, None])[:, 0]

    @abc.abstractmethod
    def _scan(self, state, x: Video) -> tuple[Any, Video]:
        """`scan`, the state checked."""


class Affine(nnx.Module):
    """centred / sqrt(variance + eps) * scale + bias, of x - mean and its mean square."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def affine(self, centred, variance, dtype):
        gain = jax.lax.rsqrt(variance + EPSILON) * self.scale[...].astype(centred.dtype)
        return (centred * gain + self.bias[...].astype(centred.dtype)).astype(dtype)

    def over(self, x, axes: int | tuple[int, ...]):
        """x normalised by its mean and variance over these axes."""
        full = wide(x)
        centred = _differences(full, axes)
        centred = centred - centred.mean(axes, keepdims=True)
        return self.affine(centred, jnp.square(centred).mean(axes, keepdims=True), x.dtype)


class ChannelNorm(nnx.LayerNorm):
    """LayerNorm of an array (..., C): mean and variance over the channels of each place.

    >>> ChannelNorm(2, rngs=nnx.Rngs(0))(jnp.array([[10_000.0, 10_002.0]])).round(3).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        super().__init__(channels, epsilon=EPSILON, use_fast_variance=False, rngs=rngs)

    def __call__(self, x):
        return super().__call__(_differences(wide(x), -1)).astype(x.dtype)


def _differences(full, axes):
    """x minus its first number along these axes, which lies within sqrt(n) deviations of the mean of n numbers."""
    axes = (axes,) if isinstance(axes, int) else axes
    first = tuple(slice(0, 1) if axis in axes or axis - full.ndim in axes else slice(None) for axis in range(full.ndim))
    return full - jax.lax.stop_gradient(full[first])  # the result does not depend on it


@NORMS.register("none")
class Identity(Norm):
    """No normalisation."""

    frame_wise = True

    def __init__(self, channels: int):
        del channels

    def init_state(self, batch: int, grid: Grid):
        return ()

    def _scan(self, state, x: Video):
        return state, x


@NORMS.register("layer")
class LayerNorm(Norm):
    """Mean and variance over the channels of each pixel of each frame (LayerNorm)."""

    frame_wise = True

    def __init__(self, channels: int):
        self.affine = Affine(channels)

    def init_state(self, batch: int, grid: Grid):
        return ()

    def _scan(self, state, x: Video):
        return state, self.affine.over(x, -1)


@NORMS.register("global_layer")
class GlobalLayer(Norm):
    """One mean and variance over (T, H, W, C) per sample. Not causal: it cannot stream."""

    causal = False

    def __init__(self, channels: int):
        self.affine = Affine(channels)

    def init_state(self, batch: int, grid: Grid):
        return ()

    def _scan(self, state, x: Video):
        return state, self.affine.over(x, (1, 2, 3, 4))


class RunningMoments(NamedTuple):
    """How many frames, and the mean and variance of their pixels, each as a number and what it lacks."""

    frames: Int[Any, "b"]
    mean: Float[Any, "b 2"]
    variance: Float[Any, "b 2"]


@NORMS.register("global_layer_causal")
class GlobalLayerCausal(Norm):
    """Frame t is normalised by the mean and variance over (H, W, C) of frames 0..t. Streams, without end.

    The moments of two parts, n_a and n_b frames, give those of both (Welford 1962; Chan et al. 1983): with w = n_b / n
    and d = mean_b - mean_a, mean = mean_a + w d and variance = variance_a + w (variance_b - variance_a + (1 - w) d^2).
    All means are taken from a reference r that is one of the data or the mean so far.
    """

    def __init__(self, channels: int):
        self.affine = Affine(channels)

    def init_state(self, batch: int, grid: Grid) -> RunningMoments:
        return RunningMoments(jnp.zeros((batch,), jnp.int32), *(jnp.zeros((batch, 2), jnp.float32) for _ in range(2)))

    def _scan(self, state: RunningMoments, x: Video):
        expand = lambda v: v[:, :, None, None, None]  # noqa: E731
        steps, begun = x.shape[1], state.frames > 0
        full = wide(x)
        reference = jax.lax.stop_gradient(jnp.where(begun, state.mean[:, 0], full[:, 0, 0, 0, 0]))
        moved = full - expand(reference[:, None])
        means = moved.mean((2, 3, 4))
        variances = jnp.square(moved - expand(means)).mean((2, 3, 4))
        counts = jnp.broadcast_to(jnp.arange(1, steps + 1), means.shape)
        _, means, variances = jax.lax.associative_scan(_both, (jnp.ones_like(counts), means, variances), axis=1)
        past = jnp.where(begun, state.mean[:, 0] - reference + state.mean[:, 1], 0)[:, None]
        spread, spread_rest = jnp.moveaxis(state.variance, 1, 0)
        weight = counts.astype(full.dtype) / counted(state.frames[:, None], counts).astype(full.dtype)
        step, square = _change(weight, past, spread[:, None], means, variances)
        mean, variance = past + step, jnp.maximum((spread + spread_rest)[:, None] + square, 0)
        y = self.affine.affine(moved - expand(mean), expand(variance), x.dtype)
        after = RunningMoments(
            counted(state.frames, steps), compensated(reference, mean[:, -1]),
            compensated(spread, spread_rest + square[:, -1]),
        )  # fmt: skip
        return after, y


def _both(early, late):
    """The (frames, mean, variance) of two parts as one."""
    frames = early[0] + late[0]
    step, square = _change(late[0].astype(late[1].dtype) / frames.astype(late[1].dtype), *early[1:], *late[1:])
    return frames, early[1] + step, early[2] + square


def _change(weight, mean, variance, new_mean, new_variance):
    """How far the mean and the variance move when a part of that weight joins."""
    distance = new_mean - mean
    return weight * distance, weight * (new_variance - variance + (1 - weight) * jnp.square(distance))


def create_norm(name: str, channels: int) -> Norm:
    """Build a norm by name: none, layer, global_layer, global_layer_causal."""
    cls: Any = NORMS[name]
    return cls(channels)
