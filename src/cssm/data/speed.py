"""Samples a second of a data set as training reads it, and the processor cores that keep an accelerator busy."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .formats.photographs import Photographs
from .loader import loader, usable_threads
from .make import ENDLESS
from .rng import draws_of


class Speed(NamedTuple):
    """Samples a second, measured."""

    one: float
    """Made in the main thread: of one core."""
    threads: int
    all: float
    """Of the loader with that many threads."""
    stages: dict[str, float]
    """Seconds a sample in one thread: reading, decoding, cropping of photographs; of other sets none."""

    def cores(self, rate: float) -> int:
        """Cores that make `rate` samples a second.

        >>> Speed(400.0, 2, 700.0, {}).cores(3000.0)
        8
        """
        return math.ceil(rate / self.one)


def measure(data: Any, *, threads: int | None = None, seconds: float = 3.0, batch_size: int = 64) -> Speed:
    """The speed of a data set's training split, `seconds` of each measurement."""
    threads = usable_threads() if threads is None else threads
    one, many = (samples_per_second(data, threads=n, seconds=seconds, batch_size=batch_size) for n in (0, threads))
    return Speed(one, threads, many, stages(data, seconds) if isinstance(data, Photographs) else {})


def samples_per_second(config: Any, *, threads: int = 0, seconds: float = 2.0, batch_size: int = 64) -> float:
    """Wall-clock rate of whole batches of training through the loader, compilation excluded. threads 0: this thread."""
    generated = type(config) in ENDLESS
    source = config.source("train", size=10**6 if generated else None)
    batches = loader(source, batch_size=batch_size, shuffle=not generated, repeat=True, threads=threads)
    next(batches)
    count, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        next(batches)
        count += batch_size
    batches.close()
    return count / spent


def stages(data: Photographs, seconds: float = 2.0) -> dict[str, float]:
    """Seconds that reading, decoding and cropping a photograph of the training split take, in this thread."""
    images, view = data.encoded("train"), data.view()
    spent: dict[str, float] = {"reading": 0.0, "decoding": 0.0, "cropping": 0.0}

    def timed(stage: str, function: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = function()
        spent[stage] += time.perf_counter() - begin
        return result

    order, count = np.random.RandomState(0).permutation(images.size), 0
    draws = draws_of(0, np.arange(images.size, dtype=np.uint64)).tolist()
    view(images.read(0).data, images.where(0), draws[0])  # imports and compiles
    while sum(spent.values()) < seconds:
        i = int(order[count % images.size])
        encoded = timed("reading", lambda i=i: images.read(i))
        image = timed("decoding", lambda i=i, data=encoded.data: view.decoded(data, images.where(i)))
        timed("cropping", lambda i=i, image=image: view.cut(image, draws[i]))
        count += 1
    return {stage: total / count for stage, total in spent.items()}
