"""AdamW or LAMB, a warm-up and cosine schedule, clipping by global norm, weight decay and layer decay by names."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import optax

from cssm.core.errors import UsageError

from .config import TrainConfig

LAMB_EPS = 1e-6  # its paper's
FINAL_FRACTION = 0.01  # of the peak learning rate, at the last step


def optimizer(config: TrainConfig, steps: int) -> tuple[optax.GradientTransformation, Callable[[Any], Any]]:
    """What updates a dict of named parameters `steps` times, and its schedule (applied updates -> learning rate).

    Gradients clipped by their global norm; AdamW, or LAMB, whose updates of the parameters that decay are as long as
    |w| / |update| makes them (the others are Adam's); then the factors of `layer_scales`. Sources: Loshchilov and
    Hutter 2019 (AdamW), You et al. 2020 (LAMB), Clark et al. 2020 (layer decay).

    >>> import jax.numpy as jnp
    >>> transform, schedule = optimizer(TrainConfig(steps=10, lr=0.1, warmup_steps=2), steps=10)
    >>> state = transform.init({"head/kernel": jnp.ones((2, 2))})
    >>> [round(float(schedule(step)), 4) for step in (0, 1, 2, 10)]
    [0.0, 0.05, 0.1, 0.001]
    """
    schedule = warmup_cosine(config.lr, steps, config.warmup_steps)
    if config.optimizer == "lamb":
        transform = lamb(schedule, config)
    else:
        transform = optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=decay_mask)
    if config.layer_decay is not None:
        transform = optax.chain(transform, _scaled(partial(layer_scales, config.layer_decay)))
    if config.grad_clip is not None:
        transform = optax.chain(optax.clip_by_global_norm(config.grad_clip), transform)
    if not config.freeze:
        return transform, schedule
    still = optax.masked(optax.set_to_zero(), partial(frozen, config.freeze))
    return optax.chain(still, transform, still), schedule


def lamb(schedule: Callable[[Any], Any], config: TrainConfig) -> optax.GradientTransformation:
    """Adam, weight decay, and for the parameters that it applies to the trust ratio |w| / |update|."""
    return optax.chain(
        optax.scale_by_adam(config.b1, config.b2, eps=LAMB_EPS),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
        optax.masked(optax.scale_by_trust_ratio(), decay_mask),
        optax.scale_by_learning_rate(schedule),
    )


def layer_scales(decay: float, params: Mapping[str, Any]) -> dict[str, float]:
    """Factors of the learning rate that are smaller the further a parameter is from the output.

    A model of n numbered blocks has n + 2 levels: 0 before the blocks, i + 1 in block i, n + 1 in the head; the factor
    of level l is decay^(n + 1 - l). Paths say which: `blocks/3/...` is block 3, `head/...` and `projections/...` stand
    behind the blocks.

    Raises:
      UsageError: no path names a numbered block.

    >>> layer_scales(0.5, {"stem/kernel": 0, "stack/blocks/0/mlp/kernel": 0, "head/kernel": 0})
    {'stem/kernel': 0.25, 'stack/blocks/0/mlp/kernel': 0.5, 'head/kernel': 1.0}
    """
    found = {name: re.search(r"(?:^|/)blocks/(\d+)/", name) for name in params}
    blocks = 1 + max((int(block[1]) for block in found.values() if block), default=-1)
    if not blocks:
        raise UsageError(
            f"layer_decay is by numbered blocks (.../blocks/0/...), and the parameters have none, such as "
            f"{', '.join(sorted(params)[:3])}: leave it out"
        )

    def level(name: str) -> int:
        block = found[name]
        return int(block[1]) + 1 if block else blocks + 1 if name.startswith(("head", "projections")) else 0

    return {name: decay ** (blocks + 1 - level(name)) for name in params}


def _scaled(scales: Callable[[Mapping[str, Any]], dict[str, float]]) -> optax.GradientTransformation:
    """Updates times what `scales` says of their names."""

    def init(params: Any) -> optax.EmptyState:
        scales(params)  # says so at once where names do not allow it
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factors = scales(updates)
        return {name: factors[name] * value for name, value in updates.items()}, state

    return optax.GradientTransformation(init, update)


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
