"""Custom operators have no forward-mode derivative, and torch.library would drop the tangents without a word."""

from torch import Tensor
from torch.autograd import forward_ad

from cssm.core.errors import UsageError


def refuse_forward_mode(function: str, *tensors: Tensor | None) -> None:
    """UsageError where a tensor carries a tangent, as in torch.func.jvp.

    Args: function: its name, for the message. tensors: its arguments, of any shape; None is passed over.

    >>> import torch
    >>> refuse_forward_mode("decay_scan", torch.ones(2), None)
    """
    if forward_ad._current_level < 0:
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise UsageError(
            f"{function} has no forward-mode derivative (torch.func.jvp, jacfwd): use reverse mode, or write the "
            "recurrence as a loop"
        )
