"""Custom operators and the transforms of torch.func: reverse mode and vmap by rules, forward mode refused.

Operators have no forward-mode derivative, and torch.library would drop the tangents without a word.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from cssm.core.errors import UsageError


def transformed() -> bool:
    """Whether a transform of torch.func (grad, vjp, jacrev, vmap) is at work, which custom operators do not take."""
    return torch._C._are_functorch_transforms_active()


def checkpointed(function: Callable[..., Any], *arrays: Any) -> Any:
    """`function(*arrays)`, its insides computed again for the gradient; kept under torch.func, which knows no hooks."""
    if transformed():
        return function(*arrays)
    return checkpoint(function, *arrays, use_reentrant=False, preserve_rng_state=False)


def fold(size: int, dims: Sequence[int | None], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Tensors (b, ...), some with a mapped axis of that size at their dim, as (size * b, ...), for a rule of vmap."""
    folded: list[Tensor | None] = []
    for dim, tensor in zip(dims, tensors, strict=True):
        if tensor is None:
            folded.append(None)
            continue
        mapped = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        folded.append(mapped.flatten(0, 1))
    return folded


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
