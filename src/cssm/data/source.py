"""The data source contract: random access to samples, one at a time or a batch in one call.

A sample is a dict of NumPy values; a batch is the same dict with a leading axis b:

| key       | sample                                 | meaning                                             |
|-----------|----------------------------------------|-----------------------------------------------------|
| `input`   | uint8 (t, h, w, 3) or (h, w, 3)        | a video or a still image, 0..255                    |
| `label`   | int32 ()                               | the class                                           |
| `markers` | float32 (2, 2), in synthetic sets only | (y, x) of the two markers, px; pixel centres at +.5 |
| `valid`   | bool (), in files with skip_corrupt    | False: could not be read, counts for nothing        |
"""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from cssm.core.errors import UsageError

Sample = dict[str, Any]
Batch = dict[str, np.ndarray]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Source(abc.ABC):
    """Random access to `len(source)` samples; satisfies Grain's RandomAccessDataSource.

    Concrete sources define `__len__` and `batch`; `source[i]` is a batch of one, so the two always agree.
    Both are pure functions of the index and may be called from several threads at once. A source that knows its
    labels without reading samples gives them in `known_labels` (n,) int32. One whose training samples are drawn, such
    as random crops of photographs, defines `drawn` too.
    """

    known_labels: np.ndarray | None = None

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abc.abstractmethod
    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The samples at `indices` (b integers in 0..len-1), stacked. Raises IndexError outside the range."""

    def drawn(self, indices: Sequence[int] | np.ndarray, draws: np.ndarray) -> Batch:
        """The samples at `indices` as training sees them, a pure function of both arguments; by default as `batch`.

        Args:
            indices: as of `batch`.
            draws: (b,) uint64, random bits for each, another for each place in the stream of training samples.
        """
        return self.batch(indices)

    def __getitem__(self, index: int | np.integer) -> Sample:
        return {key: value[0] for key, value in self.batch([int(index)]).items()}


class Subset(Source):
    """The samples of `source` at `indices`, in that order: how a file set is cut into splits."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
        self.source = source
        self.indices = np.asarray(indices, np.int64).reshape(-1)
        if source.known_labels is not None:
            self.known_labels = source.known_labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        return self.source.batch(self.indices[checked_indices(indices, len(self))])

    def drawn(self, indices: Sequence[int] | np.ndarray, draws: np.ndarray) -> Batch:
        return self.source.drawn(self.indices[checked_indices(indices, len(self))], draws)


def take(source: Source, size: int | None = None, seed: int | None = None) -> Source:
    """The first `size` samples, or all; with a seed, of the source in the order of a permutation by that seed.

    Raises UsageError when there are fewer, or the seed is negative or beyond 2**32-1.
    """
    count = len(source) if size is None else size
    if not 0 <= count <= len(source):
        raise UsageError(f"{count} samples were asked for, the files hold {len(source)}: ask for at most that many")
    if seed is None:
        return source if count == len(source) else Subset(source, np.arange(count))
    check_range("seed", seed, 0, 2**32 - 1)
    return Subset(source, np.random.RandomState(seed).permutation(len(source))[:count])


def checked_indices(indices: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """`indices` as a contiguous int64 vector; IndexError when one is outside 0..size-1."""
    out = np.ascontiguousarray(np.asarray(indices).reshape(-1), dtype=np.int64)
    if out.size and not (out.min() >= 0 and out.max() < size):
        raise IndexError(f"index {out[(out < 0) | (out >= size)][0]} is outside 0..{size - 1}")
    return out


def labels_of(source: Source, indices: Sequence[int] | np.ndarray, *, chunk: int = 256) -> np.ndarray:
    """Labels (n,) int32 of the samples at `indices`, -1 for one that could not be read (`valid` False).

    Samples are not read where the source knows their labels.
    """
    indices = checked_indices(indices, len(source))
    if source.known_labels is not None:
        return source.known_labels[indices]
    parts = [np.empty(0, np.int32)]
    for begin in range(0, len(indices), chunk):
        batch = source.batch(indices[begin : begin + chunk])
        parts.append(np.where(batch.get("valid", True), batch["label"], np.int32(-1)))
    return np.concatenate(parts)


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """UsageError unless `value` is one of `choices`."""
    if value not in choices:
        raise UsageError(f"{name} {value!r} is unknown: choose one of {', '.join(map(str, choices))}")


def check_range(name: str, value: int | float, low: int | float, high: int | float) -> None:
    """UsageError unless low <= value <= high."""
    if not low <= value <= high:
        raise UsageError(f"{name} {value} is out of range: choose {low}..{high}")
