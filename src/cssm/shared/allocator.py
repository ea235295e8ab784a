"""What the C library does with large arrays that are freed: by default it gives each back, and asks for new pages."""

import ctypes
import os
import sys

MMAP_MAX, TRIM_THRESHOLD, ARENA_MAX = -4, -1, -8  # of mallopt(3)


def keep_freed_memory() -> bool:
    """From here on this process keeps the memory of freed arrays for its next ones.

    A training step frees and allocates the same arrays again and again. With glibc's defaults every array above 32 MiB
    is new memory from the system, which must clear its pages first: up to half the time of an operator on a CPU. For
    the process of a command, not for a library's import; memory once used stays in use until the process ends.

    Returns: whether it took effect: False with another C library than glibc, and where MALLOC_* or GLIBC_TUNABLES in
      the environment say what is wanted.

    >>> keep_freed_memory() in (True, False)
    True
    """
    told = any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ)
    if told or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    choices = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (ARENA_MAX, 1))  # one heap: arenas of threads are small
    return all(library.mallopt(option, value) for option, value in choices)
