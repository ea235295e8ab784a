"""Memory: how much is in use, and whether an error says that it ran out."""

import resource
import sys

import jax

MIB = 2**20


def memory_mib() -> float:
    """Peak memory so far, MiB: of the first device where it reports it, else the process's resident set."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024  # bytes there, KiB elsewhere


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that host or device memory ran out.

    >>> [out_of_memory(e) for e in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 3 GiB"), ValueError("no"))]
    [True, True, False]
    """
    words = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
