"""What runs every day, and what is left to `make test-slow`."""

import pytest

QUICK = ("no_gate", "spatial_attn")  # of which nothing is left to the slow tests


def everyday(names, cases, few):
    """(name, *case) for all. Cases that are not among `few` are left to the slow tests, but for the QUICK mixers."""
    slow = pytest.mark.slow
    return [pytest.param(n, *c, marks=() if n in QUICK or c in few else slow) for n in names for c in cases]
