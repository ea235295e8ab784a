"""Batches of a source, in threads, with an exactly resumable position (a Grain pipeline over sample indices).

Whole batches are made by `source.batch`, several at a time in threads; compiled sources release the GIL.
"""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from cssm.core.errors import DataError, UsageError

from .source import Batch, Source, check_range

ENDLESS = 2**62  # samples


def loader(
    source: Source,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = False,
    repeat: bool = False,
    threads: int | None = None,
    process: tuple[int, int] = (0, 1),
) -> "Batches":
    """An iterator of batches of `source`.

    With shuffle or repeat, which is training, samples are drawn (`Source.drawn`): the draws are a function of the seed
    and the place in the stream alone, whatever the batch size, the number of processes and the place of a restart.

    Args:
        source: where the samples come from.
        batch_size: samples of a batch b, over all processes together.
        seed: of the shuffle.
        shuffle: a new order every epoch, a function of (seed, epoch) alone. Without it: 0, 1, 2, ...
        repeat: False: one pass, whose last batch is filled up to `batch_size` with copies of the last sample,
            marked False in `valid`. True: endless; epochs follow each other without a gap and every sample comes
            once an epoch.
        threads: threads that make batches ahead of use; 0 makes each when it is asked for. Default: the
            number of processor cores that this process may use, 16 at most.
        process: (index, count): this process gets row block `index` of `count` of every batch.

    Returns batches {"input", "label", ..., "valid": bool (b / count,)}: the source's keys and `valid`, which is
    also False for samples that the source itself marks (unreadable files, with skip_corrupt).

    Raises UsageError when the source is empty or the sizes do not fit together.

    >>> from cssm.data.pathtracker import PathTracker
    >>> batches = loader(PathTracker(frames=4).source(size=10), batch_size=4)
    >>> [int(batch["valid"].sum()) for batch in batches]
    [4, 4, 2]
    """
    index, count = process
    check_range("batch_size", batch_size, 1, 2**31)
    check_range("process index", index, 0, count - 1)
    threads = usable_threads() if threads is None else threads
    check_range("threads", threads, 0, 256)
    if not len(source):
        raise UsageError("the source has no samples: ask for a size of at least 1")
    if batch_size % count:
        raise UsageError(f"batch_size {batch_size} does not divide over {count} processes: choose a multiple")
    if shuffle:
        check_range("size of a shuffled source", len(source), 1, 2**32 - 1)
    return Batches(source, batch_size, seed, shuffle, repeat, threads, (index, count))


def usable_threads() -> int:
    """The processor cores that this process may use, 16 at most: a batch is made by one thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


class Batches(Iterator[Batch]):
    """The iterator that `loader` returns; `get_state` and `set_state` move its position exactly.

    The state is a JSON-able dict. Its position counts samples, so a run may go on with another batch size that
    divides the position; source size, seed, shuffle and repeat must be the same.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        shuffle: bool,
        repeat: bool,
        threads: int,
        process: tuple[int, int],
    ):
        self.source, self.batch_size = source, batch_size
        self._order = {"size": len(source), "seed": seed, "shuffle": shuffle, "repeat": repeat}
        self._iterator = self._pipeline(threads, process)

    def _pipeline(self, threads: int, process: tuple[int, int]) -> Any:
        import grain  # slow to import, as is numba: only when data is really loaded

        from .rng import draws_of, mix

        index, count = process
        rows = slice(index * self.batch_size // count, (index + 1) * self.batch_size // count)
        dataset = grain.MapDataset.range(len(self.source))
        if self._order["shuffle"]:
            # Grain shuffles epoch e by seed + e: mix, or seed 1 is seed 0 one epoch later
            dataset = dataset.shuffle(seed=int(mix(np.uint64(self._order["seed"]))) >> 32)
        if self._order["repeat"]:
            dataset = dataset.repeat(ENDLESS // len(self.source))  # Grain's own endless length overflows a batch of 1
        dataset = dataset.batch(self.batch_size, batch_fn=np.array)
        training = self._order["shuffle"] or self._order["repeat"]

        def made(number: int, indices: np.ndarray) -> Batch:
            begin = int(number) * self.batch_size + rows.start
            positions = begin + np.arange(rows.stop - rows.start, dtype=np.uint64)
            return self._make(indices, rows, draws_of(self._order["seed"], positions) if training else None)

        dataset = dataset.map_with_index(made)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + min(threads, 4))
        return iter(dataset.to_iter_dataset(options))

    def _make(self, indices: np.ndarray, rows: slice, draws: np.ndarray | None) -> Batch:
        valid = np.arange(self.batch_size) < len(indices)
        indices = np.pad(indices, (0, self.batch_size - len(indices)), mode="edge")[rows]
        try:
            batch = self.source.batch(indices) if draws is None else self.source.drawn(indices, draws)
        except MemoryError as error:  # of the host: a smaller batch on the device is no remedy
            raise DataError(
                f"the host's memory ran out while {len(indices)} samples were read, of {indices[0]} and on "
                f"({error or 'no more is free'}): use a smaller --batch-size or smaller images"
            ) from error
        return {**batch, "valid": valid[rows] & batch.get("valid", True)}

    def __len__(self) -> int:
        """Batches of one epoch, a partial last one included."""
        return -(-len(self.source) // self.batch_size)

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """Where the next batch begins: {"position": samples taken so far, and what defines their order}."""
        return {"position": self._iterator.get_state()["next_index"] * self.batch_size, **self._order}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on at `state`. Raises UsageError when it belongs to other data or falls inside a batch."""
        for key, value in self._order.items():
            if state.get(key) != value:
                raise UsageError(
                    f"the saved data position has {key} {state.get(key)!r}, this loader {value!r}: use the same"
                )
        if state["position"] % self.batch_size:
            raise UsageError(
                f"the saved data position {state['position']} is not a multiple of batch_size "
                f"{self.batch_size}: use a batch size that divides it"
            )
        self._iterator.set_state({"next_index": state["position"] // self.batch_size})

    def close(self) -> None:
        """Stop the threads; the iterator cannot be used afterwards."""
        self._iterator.close()
