"""Normalisation over clips: per pixel (layer), per sample (global_layer), per sample so far (global_layer_causal).

Each is (x - mean) / sqrt(variance + 1e-6) * scale + bias with scale and bias per channel; they differ in what the mean
and variance are taken over. Statistics are float32. Source: docs/math.md section 6.
"""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.registry import Registry
from cssm.core.typing import Frame, Grid, Video

from ..layer import Layer, check_state

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
    """(x - mean) / sqrt(variance + eps) * scale + bias."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x, mean, variance):
        gain = jax.lax.rsqrt(variance + EPSILON) * self.scale[...].astype(jnp.float32)
        return (x * gain + (self.bias[...] - mean * gain)).astype(x.dtype)


@NORMS.register("none")
class Identity(Norm):
    """No normalisation."""

    def __init__(self, channels: int):
        del channels

    def init_state(self, batch: int, grid: Grid):
        return ()

    def _scan(self, state, x: Video):
        return state, x


@NORMS.register("layer")
class LayerNorm(Norm):
    """Mean and variance over the channels of each pixel of each frame (LayerNorm)."""

    def __init__(self, channels: int):
        self.affine = Affine(channels)

    def init_state(self, batch: int, grid: Grid):
        return ()

    def _scan(self, state, x: Video):
        wide = x.astype(jnp.float32)
        return state, self.affine(x, wide.mean(-1, keepdims=True), wide.var(-1, keepdims=True))


@NORMS.register("global_layer")
class GlobalLayer(Norm):
    """One mean and variance over (T, H, W, C) per sample. Not causal: it cannot stream."""

    causal = False

    def __init__(self, channels: int):
        self.affine = Affine(channels)

    def init_state(self, batch: int, grid: Grid):
        return ()

    def _scan(self, state, x: Video):
        wide = x.astype(jnp.float32)
        axes = (1, 2, 3, 4)
        return state, self.affine(x, wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True))


class RunningMoments(NamedTuple):
    frames: jax.Array
    mean_sum: jax.Array
    square_sum: jax.Array


@NORMS.register("global_layer_causal")
class GlobalLayerCausal(Norm):
    """Frame t is normalised by the mean and variance over (H, W, C) of frames 0..t. Streams."""

    def __init__(self, channels: int):
        self.affine = Affine(channels)

    def init_state(self, batch: int, grid: Grid) -> RunningMoments:
        return RunningMoments(*(jnp.zeros((batch,), jnp.float32) for _ in range(3)))

    def _scan(self, state: RunningMoments, x: Video):
        wide = x.astype(jnp.float32)
        frames = state.frames[:, None] + jnp.arange(1, x.shape[1] + 1)  # b t
        means = state.mean_sum[:, None] + jnp.cumsum(wide.mean((2, 3, 4)), 1)
        squares = state.square_sum[:, None] + jnp.cumsum(jnp.square(wide).mean((2, 3, 4)), 1)
        mean = means / frames
        variance = jnp.maximum(squares / frames - jnp.square(mean), 0)
        expand = lambda v: v[:, :, None, None, None]  # noqa: E731
        state = RunningMoments(frames[:, -1], means[:, -1], squares[:, -1])
        return state, self.affine(x, expand(mean), expand(variance))


def create_norm(name: str, channels: int) -> Norm:
    """Build a norm by name: none, layer, global_layer, global_layer_causal."""
    cls: Any = NORMS[name]
    return cls(channels)
