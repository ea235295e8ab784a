"""Stems: from pixels to channels. Frame by frame, so that they stream; a static image passes once."""

import abc
from itertools import pairwise
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.core.registry import Registry
from cssm.core.typing import Float, Grid

from .activation import activation
from .downsample import strided
from .norm import Norm, create_norm
from .patches import PatchConv

STEMS: Registry[type["Stem"]] = Registry("stem")
Pixels = Float[Any, "*axes height width rgb"]
Features = Float[Any, "*axes h w c"]


class Stem(nnx.Module, abc.ABC):
    """Abstract. (..., H, W, in_channels) -> (..., ceil(H / stride), ceil(W / stride), C), in frames or clips."""

    options: ClassVar[tuple[str, ...]] = ()
    """Keyword arguments of its own."""
    activated: ClassVar[bool] = False
    """Its output has been through an activation, of its argument `act`; another after it would be the second."""
    affine_in_pixels: ClassVar[bool] = False
    """Its output is one affine map of each pixel: it has `affine`."""

    in_channels: int
    stride: int

    @abc.abstractmethod
    def _embed(self, x: Pixels) -> Features:
        """The call, input checked."""

    def __call__(self, x: Pixels) -> Features:
        """Raises ShapeError: other channels, or frames smaller than the stride."""
        if x.shape[-1] != self.in_channels or min(x.shape[-3:-1]) < self.stride:
            size = f"{self.stride}x{self.stride}x{self.in_channels}"
            raise ShapeError(f"the stem takes frames of at least {size}, got {x.shape[-3:]}")
        return self._embed(x)

    def affine(self) -> Float[Any, "r c"]:
        """(in_channels + 1, C): its weights and bias, for pixels with a channel of ones appended.

        Raises:
          UsageError: it is not affine in single pixels.
        """
        raise UsageError(f"{type(self).__name__} is not affine in single pixels: use stem pixel")

    def grid(self, grid: Grid) -> Grid:
        """The grid of its features, for frames of (H, W) pixels."""
        return strided(grid, self.stride)


@STEMS.register("pixel")
@STEMS.register("pathtracker")  # its name in source 003
class Pixel(Stem):
    """One 1x1 convolution, at full resolution: y = W x + b for every pixel.

    Source: 003 Methods, section 1.2 (`pathtracker`).
    """

    affine_in_pixels = True

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs):
        self.in_channels, self.stride = in_channels, 1
        self.conv = nnx.Conv(in_channels, channels, (1, 1), rngs=rngs)

    def _embed(self, x: Pixels) -> Features:
        return self.conv(x)

    def affine(self) -> Float[Any, "r c"]:
        bias: Any = self.conv.bias
        return jnp.concatenate([self.conv.kernel[0, 0], bias[...][None]])


@STEMS.register("patch")
class Patch(Stem):
    """One convolution of patch_size x patch_size taps and that stride; odd grids are padded.

    Source: Dosovitskiy et al. 2021, An image is worth 16x16 words.
    """

    options = ("patch_size",)

    def __init__(self, in_channels: int, channels: int, *, patch_size: int = 4, rngs: nnx.Rngs):
        if patch_size < 1:
            raise UsageError(f"patch_size is {patch_size}, expected at least 1")
        self.in_channels, self.stride = in_channels, patch_size
        self.conv = PatchConv(in_channels, channels, patch_size, rngs=rngs)

    def _embed(self, x: Pixels) -> Features:
        return self.conv(x)


@STEMS.register("conv")
@STEMS.register("default")  # its name in source 003
class Convolutions(Stem):
    """`layers` times [3x3 convolution, activation, LayerNorm, 2x2 max-pool]: each halves the resolution.

    Source: 003 Methods, section 1.2 (`default`).
    """

    options = ("layers",)
    activated = True

    def __init__(self, in_channels: int, channels: int, *, layers: int = 2, act: str = "gelu", rngs: nnx.Rngs):
        if layers < 1:
            raise UsageError(f"stem_layers is {layers}, expected at least 1; a stem without pooling is pixel")
        activation(act)
        self.in_channels, self.stride, self.act = in_channels, 2**layers, act
        widths = [in_channels] + [channels] * layers
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in pairwise(widths)])
        self.norms: nnx.List[Norm] = nnx.List([create_norm("layer", channels) for _ in range(layers)])

    def _embed(self, x: Pixels) -> Features:
        axes, x = x.shape[:-3], x.reshape(-1, *x.shape[-3:])
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.max_pool(norm.static(activation(self.act)(conv(x))), (2, 2), (2, 2), padding="SAME")
        return x.reshape(*axes, *x.shape[1:])


def create_stem(name: str, in_channels: int, channels: int, *, act: str = "gelu", rngs: nnx.Rngs, **options) -> Stem:
    """Build a stem by name: pixel (or pathtracker), conv (or default) with `layers`, patch with `patch_size`.

    act is the activation of a stem that has one inside. An option that is None is the stem's own default.

    Raises:
      UnknownNameError: no such stem. UsageError: an option that the stem does not have, or out of range.

    >>> stem = create_stem("conv", 3, 8, layers=1, rngs=nnx.Rngs(0))
    >>> stem(jnp.zeros((2, 5, 9, 7, 3))).shape, stem.grid((9, 7))
    ((2, 5, 5, 4, 8), (5, 4))
    """
    cls: Any = STEMS[name]
    given = {option: value for option, value in options.items() if value is not None}
    if unknown := sorted(set(given) - set(cls.options)):
        what = f"its options are {', '.join(cls.options)}" if cls.options else "it has no options"
        raise UsageError(f"stem {name!r} cannot honour {', '.join(unknown)}; {what}")
    inside = {"act": act} if cls.activated else {}
    return cls(in_channels, channels, rngs=rngs, **inside, **given)
