"""Samples per second of the generators: `python -m cssm.data.speed [--threads N] [--seconds S]`."""

import argparse
import time
from typing import Any

from .featuretracker import FeatureTracker
from .loader import loader
from .pathfinder import Pathfinder
from .pathtracker import PathTracker

CASES = {
    **{f"PathTracker, {n} distractors": PathTracker(distractors=n) for n in (1, 5, 14, 25)},
    "PathTracker, skip 4": PathTracker(skip=4),
    "PathTracker, equal, random foil": PathTracker(style="equal", foil="random"),
    **{f"Pathfinder, CL {n}": Pathfinder(difficulty=n) for n in (6, 9, 14, 20, 25)},
    **{f"Pathfinder, CL {n}, matched": Pathfinder(difficulty=n, negatives="matched") for n in (9, 14, 25)},
    "FeatureTracker": FeatureTracker(),
}


def samples_per_second(config: Any, *, threads: int = 0, seconds: float = 2.0, batch_size: int = 64) -> float:
    """Wall-clock rate of whole batches through the loader, compilation excluded. threads 0: in this thread."""
    batches = loader(config.source("train", size=10**6), batch_size=batch_size, repeat=True, threads=threads)
    next(batches)
    count, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        next(batches)
        count += batch_size
    batches.close()
    return count / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="loader threads; 0: the main thread")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each case")
    args = parser.parse_args()
    for name, config in CASES.items():
        rate = samples_per_second(config, threads=args.threads, seconds=args.seconds)
        print(f"{name:<34}{rate:>8.0f} /s", flush=True)


if __name__ == "__main__":
    main()
