"""Memory: how much is in use, and whether an error says that it ran out."""

import resource
import sys
from typing import Any

import jax

MIB = 2**20
LARGEST_STEP = 6_000_000_000  # bytes that a step on a CPU takes, where it is not told how many micro-batches to make


def memory_mib() -> float:
    """Peak memory so far, MiB: of the first device where it reports it, else the process's resident set."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024  # bytes there, KiB elsewhere


class StepTooLarge(Exception):
    """A train step that needs more memory than it may: `need` bytes."""

    def __init__(self, need: int):
        super().__init__(f"{need} bytes")
        self.need = need


def step_bytes(step: Any, *arrays: Any) -> int:
    """What a compiled function on those arrays holds at once: arguments, results and what is between them.

    >>> step_bytes(jax.jit(lambda x: x + 1), jax.numpy.zeros(1000)) >= 8000
    True
    """
    memory = step.lower(*arrays).compile().memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(held + memory.temp_size_in_bytes)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that host or device memory ran out.

    >>> [out_of_memory(e) for e in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 3 GiB"), ValueError("no"))]
    [True, True, False]
    """
    words = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
