"""Peak memory of a call on the CPU, as Linux counts it: the high-water mark of resident memory."""

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def high_water_mark(function: Callable[[], Any]) -> int | None:
    """Bytes by which resident memory rises at most while `function` runs, its result included; None outside Linux.

    Memory that earlier calls freed is first handed back, or it would be used again unseen. What other threads of the
    process take or free in the meantime counts too.

    >>> import numpy as np
    >>> rise = high_water_mark(lambda: np.ones(4_000_000))  # 32 MB, where no other thread is at work
    >>> rise is None or rise < 2**40
    True
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        RESET.write_text("5")  # VmHWM starts again from VmRSS
    except (OSError, AttributeError):
        return None
    before = _kilobytes("VmRSS")
    result = function()
    peak = _kilobytes("VmHWM")
    del result
    return 1024 * max(0, peak - before)


def resident_memory() -> int | None:
    """Bytes of memory that this process holds; None outside Linux.

    >>> held = resident_memory()
    >>> held is None or held > 1e6
    True
    """
    try:
        return 1024 * _kilobytes("VmRSS")
    except OSError:
        return None


def installed_memory() -> int | None:
    """Bytes of memory that this machine has; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _kilobytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{STATUS} has no {field}")
    return int(found[1])
