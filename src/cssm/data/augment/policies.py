"""The names of policies, read without JAX: none, three, rand-m9-mstd0.5-inc1."""

import re
from typing import NamedTuple

from cssm.core.errors import UsageError

FORM = re.compile(r"rand-m(\d+(?:\.\d+)?)(?:-n(\d+))?(?:-mstd(\d+(?:\.\d+)?))?(?:-inc([01]))?")
MOST = 10  # the largest magnitude, and operations of a policy


class RandAugment(NamedTuple):
    """`layers` operations on a clip, of magnitude N(magnitude, deviation^2) cut to 0..10 each."""

    magnitude: float
    layers: int = 2
    deviation: float = 0.0
    increasing: bool = False
    """Every operation changes more, the larger its magnitude."""


def parse_policy(text: str) -> RandAugment | str:
    """The policy of a name: "none", "three", or the options of a RandAugment. UsageError for another name.

    >>> parse_policy("rand-m9-mstd0.5-inc1")
    RandAugment(magnitude=9.0, layers=2, deviation=0.5, increasing=True)
    """
    if text in ("none", "three"):
        return text
    found = FORM.fullmatch(text)
    if found is None:
        raise UsageError(
            f"policy {text!r} is unknown: choose none, three, or rand-mM[-nN][-mstdS][-inc0|1] such as "
            "rand-m9-mstd0.5-inc1"
        )
    magnitude, layers = float(found[1]), int(found[2] or 2)
    if magnitude > MOST or not 1 <= layers <= MOST:
        raise UsageError(f"policy {text!r} is out of range: choose a magnitude m of 0..{MOST} and n of 1..{MOST}")
    return RandAugment(magnitude, layers, float(found[3] or 0), found[4] == "1")
