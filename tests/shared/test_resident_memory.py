"""Resident memory, in a process of its own: other threads of a test's process take and free memory when they like."""

import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
from cssm.shared.resident_memory import high_water_mark, resident_memory
print(high_water_mark(lambda: np.ones(4_000_000)), high_water_mark(lambda: None))
before = resident_memory()
held = np.ones(4_000_000)
print(resident_memory() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone says it")
def test_an_array_of_32_megabytes_is_seen_while_it_is_there():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    rise, nothing, held = map(int, done.stdout.split())
    assert 31e6 < rise < 34e6 and nothing < 1e6 and 31e6 < held < 34e6
