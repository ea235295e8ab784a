"""What the public functions of cssm.torch take: tensors, told from NumPy and JAX arrays in one line."""

from typing import Any

from torch import Tensor

from cssm.core.errors import UsageError


def check_tensors(function: str, *arrays: Any) -> None:
    """UsageError for anything but tensors; None is passed over.

    >>> import torch
    >>> check_tensors("decay_scan", torch.ones(2), None)
    """
    for array in arrays:
        if array is not None and not isinstance(array, Tensor):
            kind = f"{type(array).__module__}.{type(array).__name__}"
            raise UsageError(f"{function} takes tensors, got a {kind}: give torch.as_tensor(...) of it")
