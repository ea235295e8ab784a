"""Freed memory stays with the process that asks for it, and with no other."""

import subprocess
import sys

import pytest

CHILD = """
import resource, sys
import numpy as np
from cssm.shared.allocator import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    before = faults()
    np.full(8_000_000, 1.0)
print(kept, faults() - before)
"""


def faults(word, **environment):
    run = subprocess.run(
        [sys.executable, "-c", CHILD, word], capture_output=True, text=True, check=True,
        env={"PATH": "/usr/bin:/bin", "NUMPY_MADVISE_HUGEPAGE": "0", **environment},
    )  # fmt: skip
    kept, count = run.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_an_array_of_the_size_of_a_freed_one_is_no_new_memory():
    assert faults("leave")[1] > 10_000  # 64 MB in pages of 4 KiB
    kept, count = faults("keep")
    assert kept and count < 500
    told, count = faults("keep", MALLOC_TOP_PAD_="0")
    assert not told and count > 10_000
