"""What both faces of the decay scan and of DecaySSM check, on shapes and names of dtypes."""

import math
from typing import Any

from cssm.core.errors import ShapeError, UsageError

DECAY_SSM_FORMS = ("chunked", "kernel", "naive")
FLOATS = ("float16", "bfloat16", "float32", "float64")


def check_decay_scan(name: str, log_a: Any, x: Any, h0: Any = None, decay: str = "log_a") -> None:
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
        found = tuple(log_a.shape)
        raise ShapeError(f"{name}: {decay} has shape {found}, expected {shape[:3]}: (B, T, R) of x {shape}")
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


def check_decay_ssm(dim: int, rows: int, channels: int, chunk: int, implementation: str | None) -> str:
    """The form of DecaySSM to use. UsageError for sizes below 1 and unknown forms.

    Picked (None): "kernel" while a state has less than 512 elements, then "chunked". On a 2-core CPU, forward and
    backward of (2, 1024) steps, the kernel form was the faster one at R = C = 16, and chunked 2 to 4 times as fast
    from 32 on.

    >>> check_decay_ssm(8, 16, 16, 8, None), check_decay_ssm(8, 64, 64, 8, None)
    ('kernel', 'chunked')
    """
    for what, size in (("dim", dim), ("rows", rows), ("channels", channels), ("chunk", chunk)):
        if size < 1:
            raise UsageError(f"DecaySSM: {what} is {size}, expected at least 1")
    if implementation is None:
        return "chunked" if rows * channels >= 512 else "kernel"
    if implementation not in DECAY_SSM_FORMS:
        raise UsageError(f"unknown implementation {implementation!r} of DecaySSM: use {', '.join(DECAY_SSM_FORMS)}")
    return implementation


def check_decay_ssm_input(method: str, u: Any, state: Any, dim: int, rows: int, channels: int) -> None:
    """Refuse u that is not floating (B, T, dim), for step (B, dim), and a state that is not (B, rows, channels)."""
    shape, expected = tuple(u.shape), "(B, D)" if method == "step" else "(B, T, D)"
    if len(shape) != expected.count(",") + 1 or shape[-1] != dim:
        raise ShapeError(f"DecaySSM.{method}: u has shape {shape}, expected {expected} with D = {dim}")
    if 0 in shape:
        raise ShapeError(f"DecaySSM.{method}: u is empty (shape {shape}): give at least one step")
    dtype = str(u.dtype).removeprefix("torch.")
    if dtype not in FLOATS:
        raise ShapeError(f"DecaySSM.{method}: u is {dtype}, expected a real floating dtype: cast it")
    if tuple(state.shape) != (shape[0], rows, channels):
        raise ShapeError(
            f"DecaySSM.{method}: state has shape {tuple(state.shape)}, expected {(shape[0], rows, channels)}: "
            "start from init_state(batch)"
        )


def decay_bias(rows: int) -> list[float]:
    """softplus^-1 of decay rates from 0.001 to 0.1 per step, evenly spaced in logarithm: memories of 10 to 1000 steps.

    >>> [round(math.log1p(math.exp(bias)), 4) for bias in decay_bias(3)]
    [0.001, 0.01, 0.1]
    """
    rates = [10 ** (-3 + 2 * r / max(1, rows - 1)) for r in range(rows)]
    return [math.log(math.expm1(rate)) for rate in rates]
