"""How long and how to train: one flat frozen dataclass, and the step counts it comes to for a given data set."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cssm.core.errors import UsageError

LOGGERS = ("jsonl", "tensorboard", "wandb")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Give `steps` or `epochs`, not both; `eval_every` and `checkpoint_every` are counted in the same unit.

    Raises UsageError for a value out of range.

    >>> TrainConfig(epochs=2).plan(batches_per_epoch=10)
    Plan(steps=20, eval_every=10, checkpoint_every=10)
    """

    steps: int | None = None
    """Optimiser steps; give this or epochs."""
    epochs: int | float | None = None
    """Passes over the training data; give this or steps."""
    batch_size: int = 128
    """Rows per update, over all devices and processes; the training data must deliver exactly this many."""
    optimizer: Literal["adamw", "lamb"] = "adamw"
    """lamb: AdamW whose updates of Dense and convolution weights are as long, in proportion, as the weights; for large
    batches (DeiT III)."""
    lr: float = 1e-3
    """Peak learning rate, reached after min(warmup_steps, steps-1), then cosine to 1% of it."""
    weight_decay: float = 1e-4
    """On Dense and convolution weights alone (`optim.decays`), times the learning rate."""
    grad_clip: float | None = 1.0
    """Largest global norm of the gradient; None turns clipping off."""
    warmup_steps: int = 500
    """Steps from 0 to the peak learning rate."""
    b1: float = 0.9
    """Decay of the mean gradient."""
    b2: float = 0.999
    """Decay of the mean squared gradient."""
    ema: float | None = None
    """Decay of the parameter average used for evaluation, such as 0.9998; None turns it off."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Parameters and inputs are cast to it each step; the master parameters stay float32."""
    accumulate: int | None = None
    """Micro-batches per update, to save memory; the result equals the full batch, but for losses that compare its rows
    (LeJEPA). None: as few as keep a step on a CPU below 6 GB; one for such losses."""
    shard: Literal["none", "fsdp"] = "none"
    """none: every device holds all parameters. fsdp: each holds a part of every parameter, its moments and its average,
    for models that do not fit; the numbers are the same."""
    layer_decay: float | None = None
    """Learning rate of each block relative to that of the one above it, such as 0.75 in fine-tuning: the head has lr,
    the last block .75 lr, the stem of 12 blocks .75^13 lr; None: lr for all."""
    freeze: str = ""
    """Parameters that stay as they are: a regular expression found in their paths, such as "stem|stack" for all but the
    head (linear probing)."""
    seed: int = 42
    """Of the initial parameters, the shuffle, drop-path and augmentation."""
    eval_every: int | float | None = None
    """Steps, or epochs, between validations; None: every epoch, or every tenth of steps; the last step always."""
    checkpoint_every: int | float | None = None
    """As eval_every, which is its default; the last step and every new best are always saved."""
    keep: int = 3
    """Newest checkpoints kept, beside the best one."""
    log_every: int = 10
    """Steps between two training lines of metrics.jsonl."""
    logger: str = "jsonl+tensorboard"
    """jsonl, always, with +tensorboard or +wandb."""
    prefetch: int = 2
    """Batches prepared ahead."""
    progress: bool = True
    """Draw a progress bar when stderr is a terminal."""

    def __post_init__(self):
        if (self.steps is None) == (self.epochs is None):
            raise UsageError(f"steps={self.steps} and epochs={self.epochs}: give exactly one of them")
        for name in ("steps", "epochs", "lr", "grad_clip", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            _require(value is None or (value > 0 and math.isfinite(value)), name, value, "a positive number")
        for name in ("batch_size", "accumulate", "keep", "log_every", "prefetch"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "an integer of at least 1")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0..4294967295")
        for name in ("steps", "batch_size", "warmup_steps"):
            value = getattr(self, name)
            _require(value is None or value < 2**31, name, value, "less than 2147483648")
        for name in ("weight_decay", "warmup_steps"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more")
        for name in ("b1", "b2"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 <= value < 1")
        _require(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "None or 0 < value < 1, such as 0.9998")
        parts = self.accumulate or 1
        _require(parts <= self.batch_size, "accumulate", parts, f"at most {self.batch_size}")
        decay = self.layer_decay
        _require(decay is None or 0 < decay <= 1, "layer_decay", decay, "None or 0 < value <= 1, such as 0.75")
        _require(self.optimizer in ("adamw", "lamb"), "optimizer", self.optimizer, "adamw or lamb")
        _require(self.shard in ("none", "fsdp"), "shard", self.shard, "none or fsdp")
        try:
            re.compile(self.freeze)
        except re.error as error:
            raise UsageError(f"freeze is {self.freeze!r}, no regular expression: {error}") from None
        dtypes = ("float32", "bfloat16")
        _require(self.compute_dtype in dtypes, "compute_dtype", self.compute_dtype, " or ".join(dtypes))
        names = self.loggers
        known = set(names) <= set(LOGGERS) and len(set(names)) == len(names)
        _require(known and "jsonl" in names, "logger", self.logger, "jsonl, jsonl+tensorboard or jsonl+wandb")

    @property
    def loggers(self) -> tuple[str, ...]:
        return tuple(self.logger.split("+"))

    def plan(self, batches_per_epoch: int | None = None) -> "Plan":
        """The run in steps. Raises UsageError when epochs are asked for and the length of one is not known."""
        if self.steps is not None:
            steps, unit, default = self.steps, 1, max(1, self.steps // 10)
        elif self.epochs is not None and batches_per_epoch:
            unit = default = batches_per_epoch
            steps = max(1, round(self.epochs * unit))
        else:
            raise UsageError(f"epochs={self.epochs}, but the training data has no length: give steps instead")
        evaluate = default if self.eval_every is None else max(1, round(self.eval_every * unit))
        save = evaluate if self.checkpoint_every is None else max(1, round(self.checkpoint_every * unit))
        return Plan(steps=steps, eval_every=evaluate, checkpoint_every=save)

    def changes_from(self, before: Mapping[str, Any]) -> list[str]:
        """For every field that differs: "lr 0.001 -> 0.0005"."""
        now = vars(self)
        shared = [name for name in now if name in before]  # an older version had fewer fields
        return [f"{name} {before[name]} -> {now[name]}" for name in shared if before[name] != now[name]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run counted in optimiser steps."""

    steps: int
    eval_every: int
    checkpoint_every: int

    def evaluates(self, step: int) -> bool:
        return step == self.steps or (step > 0 and step % self.eval_every == 0)

    def saves(self, step: int) -> bool:
        return step == self.steps or (step > 0 and step % self.checkpoint_every == 0)


def _require(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise UsageError(f"{name} is {value!r}: expected {expected}")
