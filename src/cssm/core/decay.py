"""What both faces of the decay scan and of DecaySSM check, on shapes and names of dtypes."""

from .errors import ShapeError

FLOATS = ("float16", "bfloat16", "float32", "float64")


def check_decay_scan(name: str, log_a, x, h0=None, decay: str = "log_a") -> None:
    """Refuse what is not log_a (B, T, R), x (B, T, R, C), h0 (B, R, C) or None, T > 0, with floating dtypes.

    Args: name: of the function, for the message. log_a, x, h0: anything with `shape` and `dtype`. decay: what the
      function calls its log_a.
    Raises: ShapeError.

    >>> import numpy as np
    >>> check_decay_scan("decay_scan", np.zeros((1, 2, 3)), np.zeros((1, 2, 4, 5)))
    Traceback (most recent call last):
    ...
    cssm.core.errors.ShapeError: decay_scan: log_a has shape (1, 2, 3), expected (1, 2, 4): (B, T, R) of x (1, 2, 4, 5)
    """
    shape = tuple(x.shape)
    if len(shape) != 4:
        raise ShapeError(f"{name}: x has shape {shape}, expected (B, T, R, C)")
    if tuple(log_a.shape) != shape[:3]:
        raise ShapeError(f"{name}: {decay} has shape {tuple(log_a.shape)}, expected {shape[:3]}: (B, T, R) of x {shape}")
    if shape[1] == 0:
        raise ShapeError(f"{name}: x has no steps (shape {shape}): give at least one")
    if h0 is not None and tuple(h0.shape) != (shape[0], *shape[2:]):
        expected = (shape[0], *shape[2:])
        raise ShapeError(f"{name}: h0 has shape {tuple(h0.shape)}, expected {expected}: (B, R, C) of x {shape}")
    for what, array in (("x", x), (decay, log_a), ("h0", h0)):
        dtype = array is not None and str(array.dtype).removeprefix("torch.")
        if dtype and dtype not in FLOATS:
            raise ShapeError(f"{name}: {what} is {dtype}, expected a real floating dtype: cast it")
    dtype = str(log_a.dtype).removeprefix("torch.")
    if dtype not in FLOATS[2:]:
        raise ShapeError(
            f"{name}: {decay} is {dtype}, expected float32 or float64: in {dtype} the decays are rounded so much that "
            "long memories are wrong; x may stay as it is"
        )
