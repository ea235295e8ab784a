from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pytest

from cssm.shared.annotations import describe, fits


class Named(Protocol):
    name: str


@pytest.mark.parametrize(
    ("expected", "good", "bad"),
    [
        (int, [3, np.int64(3)], ["3", 2.5, True, None]),
        (float, [0.5, 1, np.float32(1)], ["x", False, None]),
        (bool, [True], [1, "yes"]),
        (str, ["a"], [1, None]),
        (int | None, [1, None], ["x", 2.5]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (tuple[int, int], [(1, 2), [1, 2]], [(1,), (1, "x"), 3]),
        (tuple[str, ...], [(), ("a",)], [(1,), "a"]),
        (tuple[()], [()], [(1,)]),
        (list[int], [[], [1]], [["a"], (1,)]),
        (Mapping[str, Any], [{}, {"a": 1}], [{1: 2}, [1]]),
        (dict[str, int], [{"a": 1}], [{"a": "x"}]),
        (Path, [Path("a")], ["a"]),
        (Any, [1, None], []),
        (Named, [1], []),
    ],
    ids=str,
)
def test_fits(expected, good, bad):
    assert all(fits(value, expected) for value in good)
    assert not any(fits(value, expected) for value in bad)


def test_describe():
    assert describe(int) == "int" and describe(float | None) == "float | None"
