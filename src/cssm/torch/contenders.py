"""What `cssm bench` times in PyTorch: makers of callables without arguments, the plain path first."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .measure import DIRECTIONS, device
from .scan import decay_scan as our_decay_scan

Makers = dict[str, Callable[[], Callable[[], Any]]]


def masked_einsum(log_a, x):
    """The source's naive form, causally masked before exp: holds (B, T, T, R). Source: 001; MATH.md section 1."""
    total = log_a.cumsum(1)
    exponent = total[:, :, None] - total[:, None]
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
    decay = exponent.masked_fill(future[..., None], -torch.inf).exp()
    return torch.einsum("btjr,bjrc->btrc", decay, x)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).to(device())


def decay_scan(shape: tuple[int, ...], direction: str) -> Makers:
    """log_a in (-1, 0), x normal of shape (B, T, R, C)."""
    log_a, x = -random(*shape[:3]).sigmoid(), random(*shape, seed=1)
    build = DIRECTIONS[direction]
    return {
        "masked einsum": partial(build, masked_einsum, log_a, x),
        "decay_scan": partial(build, our_decay_scan, log_a, x),
    }
