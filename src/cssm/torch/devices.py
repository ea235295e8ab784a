"""The one check that all tensors of a call are on one device."""

from torch import Tensor

from cssm.core.errors import UsageError


def one_device(function: str, *tensors: Tensor | None) -> None:
    """UsageError where tensors are on several devices.

    Args: function: its name, for the message. tensors: its arguments, of any shape; None is passed over.

    >>> import torch
    >>> one_device("decay_scan", torch.ones(2), None)
    """
    devices = {str(tensor.device) for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        raise UsageError(f"{function}: tensors are on {', '.join(sorted(devices))}: move them to one device")
