"""Large-kernel depthwise convolution of signals, images and video, channels last: see `cssm.ops.fft_conv_nd`."""

from math import prod
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from cssm.core.typing import Float
from cssm.shared.fft_plan import SPATIAL_STRATEGIES, block_of, choose_spatial_strategy, reach, spatial_lengths
from cssm.shared.fft_shapes import check_direct, check_real, check_spatial, check_strategy

from ..tensors import check_tensors


def fft_conv2d(
    x: Annotated[Tensor, "b h w c"],
    kernel: Annotated[Tensor, "c kh kw"],
    *,
    boundary: str = "zero",
    strategy: str | None = None,
) -> Float[Tensor, "b h w c"]:
    """`fft_conv_nd` of images: x (B, H, W, C), kernel (C, Kh, Kw) -> (B, H, W, C).

    >>> fft_conv2d(torch.ones(1, 2, 2, 1), torch.ones(1, 3, 3))[0, :, :, 0].tolist()
    [[4.0, 4.0], [4.0, 4.0]]
    """
    check_tensors("fft_conv2d", x, kernel)
    check_spatial("fft_conv2d", x.shape, kernel.shape, boundary, axes=2)
    return fft_conv_nd(x, kernel, boundary=boundary, strategy=strategy)


def fft_conv_nd(
    x: Annotated[Tensor, "b *grid c"],
    kernel: Annotated[Tensor, "c *taps"],
    *,
    boundary: str = "zero",
    strategy: str | None = None,
) -> Float[Tensor, "b *grid c"]:
    """y[b, p, c] = sum_q kernel[c, q] x[b, p - (q - K // 2), c], a true convolution of x's size.

    Args:
      x: (B, *grid, C) with 1 to 3 grid axes, real. kernel: (C, *K), real, of any size.
      boundary: "zero" or "circular" (a kernel larger than the grid is folded).
      strategy: "fft", "direct" (F.conv1d / 2d / 3d of the flipped kernel), or None to pick the fastest, which on CPU
        depends on whether a gradient will be wanted.

    Returns:
      (B, *grid, C) in x's dtype; computed in at least float32.

    Raises:
      ShapeError: shapes or dtypes that do not fit, a circular direct kernel longer than the grid.
      UsageError: an unknown boundary or strategy.

    >>> fft_conv_nd(torch.ones(1, 4, 1), torch.tensor([[1.0, 1.0, 0.0]]))[0, :, 0].tolist()
    [2.0, 2.0, 2.0, 1.0]
    """
    check_tensors("fft_conv_nd", x, kernel)
    check_real("fft_conv_nd", x=x.dtype, kernel=kernel.dtype)
    check_spatial("fft_conv_nd", x.shape, kernel.shape, boundary)
    check_strategy("fft_conv_nd", strategy, SPATIAL_STRATEGIES)
    if strategy is None:
        gradient = torch.is_grad_enabled() and (x.requires_grad or kernel.requires_grad)
        batch, *grid, channels = x.shape
        strategy = choose_spatial_strategy(
            "torch with gradient" if gradient else "torch", batch, grid, channels, kernel.shape[1:], boundary,
            on_cpu=x.device.type == "cpu",
        )  # fmt: skip
    if strategy == "direct":
        check_direct("fft_conv_nd", x.shape, kernel.shape, boundary)
    precision = torch.promote_types(torch.promote_types(x.dtype, kernel.dtype), torch.float32)
    convolve = {"fft": _fft, "direct": _direct}[strategy]
    return convolve(x.to(precision), kernel.to(precision), boundary).to(x.dtype)


def _fft(x, kernel, boundary):
    grid, axes = x.shape[1:-1], tuple(range(1, x.ndim - 1))
    lengths = spatial_lengths(grid, kernel.shape[1:], boundary)
    spectrum = torch.fft.rfftn(_place(kernel, grid, lengths, boundary), dim=axes)
    inside = (..., *(slice(n) for n in grid))

    def convolve(x):
        image = torch.fft.rfftn(x.movedim(-1, 1).contiguous(), s=lengths, dim=[a + 1 for a in axes])
        return torch.fft.irfftn(image * spectrum, s=lengths, dim=[a + 1 for a in axes])[inside].movedim(1, -1)

    size = block_of(x.shape[0], x.shape[-1], -(-prod(lengths) // 2))
    return torch.cat([convolve(part) for part in x.split(size)])


def _place(kernel, grid, lengths, boundary):
    """The kernel on the grid of the transform, folded, its middle tap on the first point."""
    for axis, (n, length) in enumerate(zip(grid, lengths, strict=True), 1):
        taps = kernel.shape[axis]
        first, stop, centre = reach(n, taps) if boundary == "zero" else (0, taps, taps // 2)
        kernel = kernel.narrow(axis, first, stop - first)
        kernel = F.pad(kernel, (0, 0) * (kernel.ndim - 1 - axis) + (0, (first - stop) % length))
        kernel = kernel.unflatten(axis, (-1, length)).sum(axis).roll(-centre, axis)
    return kernel


def _direct(x, kernel, boundary):
    taps = kernel.shape[1:]
    margins = [margin for k in reversed(taps) for margin in (k - 1 - k // 2, k // 2)]
    x = F.pad(x.movedim(-1, 1), margins, mode="constant" if boundary == "zero" else "circular")
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(taps) - 1]
    weight = kernel.flip(tuple(range(1, kernel.ndim)))[:, None]
    return convolve(x, weight, groups=kernel.shape[0]).movedim(1, -1)
