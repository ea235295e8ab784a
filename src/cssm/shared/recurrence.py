"""What every linear recurrence checks, on ordinary numbers or on their logarithms."""

from collections.abc import Sequence

import numpy as np

from cssm.core.errors import ShapeError


def check_recurrence(name: str, a: Sequence[int], b: Sequence[int], h0: Sequence[int] | None, axis: int) -> None:
    """A ShapeError unless the shape a broadcasts to b, and h0 is b without `axis`, or None.

    >>> check_recurrence("linear_scan", (1, 3), (2, 7, 3), (2, 3), axis=1)
    """
    try:
        fits = np.broadcast_shapes(tuple(a), tuple(b)) == tuple(b)
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"{name}: a of shape {tuple(a)} does not broadcast to b of shape {tuple(b)}")
    expected = (*b[:axis], *b[axis + 1 :])
    if h0 is not None and tuple(h0) != expected:
        raise ShapeError(f"{name}: h0 has shape {tuple(h0)}, expected {expected} (b without its time axis)")
