"""Stems: from pixels to channels. Frame by frame, so that they stream; a static image passes once."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Frame, RawFrame

from .norm import Norm, create_norm

ACTIVATIONS = {"softplus": jax.nn.softplus, "gelu": jax.nn.gelu, "relu": jax.nn.relu, "none": lambda x: x}
STEMS = ("pathtracker", "default")


def activation(name: str):
    """softplus, gelu, relu or none."""
    if name not in ACTIVATIONS:
        raise UsageError(f"unknown activation {name!r}: use {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Stem(nnx.Module):
    """ "pathtracker": one 1x1 convolution, full resolution. "default": `layers` times [3x3 convolution, activation,
    norm, 2x2 max-pool]. Convolutions only; the norm of a pathtracker stem follows in the model, over the whole clip.

    Source: 003 Methods, section 1.2.
    """

    def __init__(
        self, mode: str, in_channels: int, channels: int, *, layers: int = 2, act: str = "gelu", rngs: nnx.Rngs
    ):
        mode = {"pixel": "pathtracker", "conv": "default"}.get(mode, mode)
        if mode not in STEMS:
            raise UsageError(f"unknown stem {mode!r}: use {' or '.join(STEMS)}")
        if mode == "default" and layers < 1:
            raise UsageError(f"stem_layers is {layers}, expected at least 1; a stem without pooling is pathtracker")
        activation(act)
        self.in_channels, self.pools, self.act = in_channels, 0 if mode == "pathtracker" else layers, act
        if mode == "pathtracker":
            self.convs = nnx.List([nnx.Conv(in_channels, channels, (1, 1), rngs=rngs)])
            self.norms = nnx.List([])
        else:
            widths = [in_channels] + [channels] * layers
            self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in pairwise(widths)])
            self.norms: nnx.List[Norm] = nnx.List([create_norm("layer", channels) for _ in range(layers)])

    @property
    def stride(self) -> int:
        return 2**self.pools

    def affine(self):
        """(in_channels + 1, C): the weights and bias of a stem without pooling, for input with a channel of ones."""
        conv: Any = self.convs[0]
        return jnp.concatenate([conv.kernel[0, 0], conv.bias[...][None]])

    def __call__(self, x: RawFrame) -> Frame:
        """(N, H, W, in_channels) -> (N, H / stride, W / stride, C)."""
        if x.shape[-1] != self.in_channels or min(x.shape[1:3]) < self.stride:
            raise ShapeError(
                f"the stem takes frames of at least {self.stride}x{self.stride}x{self.in_channels}, got {x.shape[1:]}"
            )
        if not self.pools:
            return self.convs[0](x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.max_pool(norm.static(activation(self.act)(conv(x))), (2, 2), (2, 2), padding="SAME")
        return x
