"""Samples that come from files: one reader per record, and what happens to records that cannot be read."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cssm.core.errors import DataError, UsageError

from ..source import Batch, Sample, Source, Subset, checked_indices
from .arrayrecord import ArrayRecordFiles
from .example import Example
from .tfrecord import TFRecordFiles, iterate_records

log = logging.getLogger("cssm.data")


class FileSource(Source):
    """`size` samples, sample i from `read(i)`; all must have the shape of the first one read.

    Args:
        size: number of samples.
        read: gives sample i, or raises DataError naming file and record. A second argument, where it is given, is the
            draw of a training sample (see `Source.drawn`).
        where: names file and record of sample i in errors.
        skip_corrupt: False: an unreadable sample is an error. True: it is left out, that is, its input is zero and
            its `valid` is False (batches have that key then), it is logged once, and counted in `left_out`.
        already_left_out: messages on what could not even be listed.
        labels: (size,) int32, where they are known without reading.
        random: whether `read` takes draws.

    Raises DataError (from `batch`) for an unreadable sample, or when no sample can be read at all.
    """

    def __init__(
        self,
        size: int,
        read: Callable[..., Sample],
        where: Callable[[int], str],
        *,
        skip_corrupt: bool = False,
        already_left_out: Sequence[str] = (),
        labels: np.ndarray | None = None,
        random: bool = False,
    ):
        self.known_labels, self._random = labels, random
        self._size, self._read, self._where, self._skip = size, read, where, skip_corrupt
        self._messages: dict[int, str] = {-1 - i: message for i, message in enumerate(already_left_out)}
        self._template: Sample | None = None
        for message in already_left_out:
            log.warning("left out: %s", message)

    def __len__(self) -> int:
        return self._size

    @property
    def left_out(self) -> list[str]:
        """One message for each record left out so far."""
        return list(self._messages.values())

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        return _stacked([self._sample(i) for i in checked_indices(indices, self._size).tolist()])

    def drawn(self, indices: Sequence[int] | np.ndarray, draws: np.ndarray) -> Batch:
        if not self._random:
            return self.batch(indices)
        pairs = zip(checked_indices(indices, self._size).tolist(), draws.tolist(), strict=True)
        return _stacked([self._sample(i, draw) for i, draw in pairs])

    def _sample(self, i: int, *draw: int) -> Sample:
        try:
            sample = self._checked(i, *draw)
        except DataError as error:
            if not self._skip:
                raise
            if i not in self._messages:
                self._messages[i] = str(error)
                log.warning("left out (%d so far): %s", len(self._messages), error)
            sample = {key: np.zeros_like(value) for key, value in self._first().items()}
            return {**sample, "valid": np.bool_(False)}
        return {**sample, "valid": np.bool_(True)} if self._skip else sample

    def _checked(self, i: int, *draw: int) -> Sample:
        sample = self._read(i, *draw)
        if self._template is None:
            self._template = sample
        for key, value in sample.items():
            expected = np.shape(self._template[key])
            if np.shape(value) != expected:
                raise DataError(f"{self._where(i)}: {key} of shape {np.shape(value)}, other samples have {expected}")
        return sample

    def _first(self) -> Sample:
        """Any readable sample, for its shapes."""
        for i in range(self._size):
            if self._template is not None:
                break
            try:
                self._checked(i)
            except DataError:
                continue
        if self._template is None:
            raise DataError(f"none of the {self._size} samples can be read, the first because: {self.left_out[0]}")
        return self._template


def _stacked(samples: list[Sample]) -> Batch:
    if not samples:
        raise UsageError("a batch of files needs at least one index")
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def record_source(
    files: TFRecordFiles | ArrayRecordFiles, sample: Callable[[Example], Sample], *, skip_corrupt: bool
) -> FileSource:
    """A source of the records of `files`, each a tf.Example that `sample` turns into a sample."""

    def read(i: int) -> Sample:
        return sample(Example(files.read(i), files.where(i)))

    return FileSource(len(files), read, files.where, skip_corrupt=skip_corrupt, already_left_out=files.left_out)


def first_sample(
    path: Path, sample: Callable[[Example], Sample], *, compression: str | None = None, skip_corrupt: bool = False
) -> Sample:
    """The first sample of a TFRecord file, read without opening the whole set. Raises DataError."""
    for i, data in enumerate(iterate_records(path, compression=compression)):
        try:
            return sample(Example(data, f"{path}, record {i}"))
        except DataError:
            if not skip_corrupt:
                raise
    raise DataError(f"{path}: no record can be read")


def cut(source: Source, split: str) -> Source:
    """The train, val or test part of `source` by the permutation of the published loaders (80/10/10, seed 42)."""
    order, train = np.random.RandomState(42).permutation(len(source)), int(len(source) * 0.8)
    val = train + int(len(source) * 0.1)
    return Subset(source, {"train": order[:train], "val": order[train:val], "test": order[val:]}[split])


def find_layout(root: Path, name: str, layouts: dict[str, tuple[str, ...]]) -> str:
    """The first layout one of whose patterns finds a file in `root`. Raises DataError when none does."""
    for layout, patterns in layouts.items():
        if any(next(root.glob(pattern), None) is not None for pattern in patterns):
            return layout
    looked = ", ".join(pattern for patterns in layouts.values() for pattern in patterns)
    raise DataError(f"{root} holds no {name} files: looked for {looked}")


def inside(root: Path, name: str, where: str) -> Path:
    """root / name, refused with DataError when a name read from a file leaves `root`."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or "\0" in name:
        raise DataError(f"{where}: the path {name!r} leads out of {root}")
    return path


def spread_frames(total: int, frames: int | None, where: str) -> np.ndarray:
    """Indices (frames,) of a rounded linspace over `total` frames; None: all. DataError when there are fewer."""
    if frames is None:
        return np.arange(total)
    if frames > total:
        raise DataError(f"{where}: {total} frames, {frames} were asked for: ask for at most {total}")
    return np.round(np.linspace(0, total - 1, frames)).astype(np.int64)
