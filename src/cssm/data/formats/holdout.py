"""A validation split of one's own, held out from train, so that the published one stays untouched until the end."""

import numpy as np

from cssm.core.errors import DataError, UsageError

from ..source import Source, Subset


def check_holdout(holdout: float) -> None:
    """UsageError unless 0 <= holdout < 1."""
    if not 0 <= holdout < 1:
        raise UsageError(f"holdout {holdout} is out of range: choose 0 (none) or a fraction of train below 1")


def splits_with(published: tuple[str, ...], holdout: float) -> tuple[str, ...]:
    """The splits there are when `holdout` of train is held out: a published val is test, unless test exists.

    >>> splits_with(("train", "val"), 0.0), splits_with(("train", "val"), 0.1), splits_with(("train",), 0.1)
    (('train', 'val'), ('train', 'val', 'test'), ('train', 'val'))

    Raises UsageError when all three are published: nothing needs holding out.
    """
    if not holdout:
        return published
    if len(published) == 3:
        raise UsageError("holdout is for sets without a test or val split: this one has all three, leave it out")
    return ("train", "val", "test") if len(published) == 2 else ("train", "val")


def published_split(split: str, published: tuple[str, ...], holdout: float) -> str:
    """The published split that `split` is read from."""
    if not holdout:
        return split
    return ("test" if "test" in published else "val") if split == "test" else "train"


def held_part(source: Source, split: str, holdout: float) -> Source:
    """The train or val part of the published train split: val is `holdout` of it, by a permutation of seed 42.

    Both parts keep the order of `source`. Raises DataError when one of them would be empty.
    """
    if not holdout or split == "test":
        return source
    held = round(holdout * len(source))
    if not 0 < held < len(source):
        raise DataError(f"holdout {holdout} of {len(source)} training samples leaves a split empty: choose another")
    order = np.random.RandomState(42).permutation(len(source))
    return Subset(source, np.sort(order[:held] if split == "val" else order[held:]))
