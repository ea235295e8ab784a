"""Threads for compiled functions that release the GIL: a pool of the process, no larger than the process may use.

numba's own parallel layers are not safe beside another OpenMP, after a fork, or when called from two threads.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path


def usable_threads() -> int:
    """CPUs this process may use: of its affinity, its cgroup, and OMP_NUM_THREADS where that says fewer."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    count = min(count, int(asked)) if asked.isdecimal() and int(asked) else count
    return max(1, min(count, _quota()))


@cache
def _quota() -> int:
    """CPUs that the control group grants, rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # none, or "max"
        return 1 << 20


@cache
def _pool(process: int, count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="cssm")


def run(jobs: list[Callable[[], None]]) -> None:
    """All jobs, on the pool of this process (a forked child makes its own); the first exception of one is raised."""
    count = usable_threads()
    if len(jobs) == 1 or count == 1:
        for job in jobs:
            job()
        return
    for done in [_pool(os.getpid(), count).submit(job) for job in jobs]:
        done.result()
