"""The one check of a reset mask, for both frameworks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cssm.core.errors import ShapeError


def check_reset(name: str, reset: Any, shape: Sequence[int]) -> None:
    """A ShapeError unless reset is None or bool of that shape, (B, T).

    >>> check_reset("linear_scan", np.zeros((2, 3), bool), (2, 3))
    """
    if reset is None:
        return
    if np.shape(reset) != tuple(shape):
        raise ShapeError(f"{name}: reset has shape {tuple(np.shape(reset))}, expected {tuple(shape)} (B, T)")
    dtype = reset.dtype if hasattr(reset, "dtype") else np.asarray(reset).dtype
    if str(dtype).removeprefix("torch.") != "bool":
        raise ShapeError(f"{name}: reset is {dtype}, expected bool: compare it with 0")
