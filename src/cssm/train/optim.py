"""AdamW with a warm-up and cosine schedule, clipped by global norm, weight decay masked by a rule on names."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import optax

from cssm.core.errors import UsageError

from .config import TrainConfig

FINAL_FRACTION = 0.01  # of the peak learning rate, at the last step


def adamw(config: TrainConfig, steps: int) -> tuple[optax.GradientTransformation, Callable[[Any], Any]]:
    """AdamW for a dict of named parameters over `steps` updates, and its schedule (applied updates -> learning rate).

    >>> import jax.numpy as jnp
    >>> transform, schedule = adamw(TrainConfig(steps=10, lr=0.1, warmup_steps=2), steps=10)
    >>> state = transform.init({"head/kernel": jnp.ones((2, 2))})
    >>> [round(float(schedule(step)), 4) for step in (0, 1, 2, 10)]
    [0.0, 0.05, 0.1, 0.001]
    """
    schedule = warmup_cosine(config.lr, steps, config.warmup_steps)
    transform = optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=decay_mask)
    if config.grad_clip is not None:
        transform = optax.chain(optax.clip_by_global_norm(config.grad_clip), transform)
    if not config.freeze:
        return transform, schedule
    still = optax.masked(optax.set_to_zero(), partial(frozen, config.freeze))
    return optax.chain(still, transform, still), schedule


def frozen(pattern: str, params: Mapping[str, Any]) -> dict[str, bool]:
    """Which parameters stay as they are: those whose path holds what the regular expression `pattern` describes.

    Raises:
      UsageError: it is found in no path, or in all.

    >>> frozen("stem|stack", {"stem/kernel": 0, "head/kernel": 0})
    {'stem/kernel': True, 'head/kernel': False}
    """
    found = {name: re.search(pattern, name) is not None for name in params}
    if len(set(found.values())) == 1:
        which = "every path: nothing would train" if all(found.values()) else "no path"
        raise UsageError(f"freeze {pattern!r} is found in {which}; paths are such as {', '.join(sorted(params)[:3])}")
    return found


def warmup_cosine(peak: float, steps: int, warmup_steps: int = 500) -> Callable[[Any], Any]:
    """Linear from 0 over min(warmup_steps, steps-1) updates, then cosine to 1% of `peak` at `steps`."""
    warmup = min(warmup_steps, steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps, peak * FINAL_FRACTION)


def decays(name: str, ndim: int) -> bool:
    """Whether weight decay applies to a parameter; the one rule, on its path of attribute names.

    It does when the parameter's own attribute is called `kernel` (Dense and convolution weights), has at least two
    dimensions, and no part of the path begins with `recurrence` or `decay`. So norms, biases, tokens, position tables
    and recurrence parameters (`recurrence_kernel`, `decay*`) are left alone: give a parameter another name to mask it.

    >>> decays("blocks/0/out/kernel", 2), decays("blocks/0/mixer/recurrence_kernel", 3), decays("norm/scale", 1)
    (True, False, False)
    """
    parts = name.split("/")
    masked = any(part.startswith(("recurrence", "decay")) for part in parts)
    return parts[-1] == "kernel" and ndim >= 2 and not masked


def decay_mask(params: Mapping[str, Any]) -> dict[str, bool]:
    """`decays` of every parameter of a name -> array mapping."""
    return {name: decays(name, value.ndim) for name, value in params.items()}


def decayed(params: Mapping[str, Any]) -> Iterable[str]:
    """The names weight decay applies to, to look at before a long run."""
    return [name for name, yes in decay_mask(params).items() if yes]
