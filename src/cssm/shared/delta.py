"""What both faces of the delta rule and of decayed attention check: shapes, and dtypes by name."""

from collections.abc import Iterable, Sequence
from typing import Any

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Float, Inexact

from .decay import FLOATS
from .fft_shapes import DTYPES

READOUTS = ("all", "last")

Keys = Inexact[Any, "b t n dk ..."]
Values = Inexact[Any, "b t n dv ..."]
Gates = Float[Any, "b t n"]
Gain = Inexact[Any, "n ..."]
Memory = Inexact[Any, "b n dv dk ..."]


def check_delta(name: str, arrays: Sequence[Any], gain: Any, state: Any, *, time: bool) -> tuple[int, ...]:
    """Refuse what is not q, k (B, T, N, Dk, ...), v (B, T, N, Dv, ...), alpha, beta (B, T, N), T > 0; floating dtypes.

    Args: name: of the function, for the message. arrays: q, k, v, alpha, beta, anything with `shape` and `dtype`.
      gain: (N, ...) or None. state: (B, N, Dv, Dk, ...) or None. time: whether there is a time axis.
    Returns: the shape of the state. Raises: ShapeError.

    >>> import numpy as np
    >>> k, gate = np.zeros((2, 7, 4, 3)), np.zeros((2, 7, 4))
    >>> check_delta("delta_rule", [k, k, k, gate, gate], None, None, time=True)
    (2, 4, 3, 3)
    """
    q, k, v, alpha, beta = arrays
    lead, legend = (2, "(B, T, N, D, ...)") if time else (1, "(B, N, D, ...)")
    qs, ks, vs = (tuple(a.shape) for a in (q, k, v))
    same = len(ks) >= lead + 2 and qs == ks and len(ks) == len(vs)
    if not same or vs[: lead + 1] + vs[lead + 2 :] != ks[: lead + 1] + ks[lead + 2 :]:
        raise ShapeError(f"{name}: q {qs}, k {ks}, v {vs} do not fit together, expected {legend}")
    gates = ks[: lead + 1]
    if tuple(alpha.shape) != gates or tuple(beta.shape) != gates:
        found = f"alpha has shape {tuple(alpha.shape)}, beta {tuple(beta.shape)}"
        raise ShapeError(f"{name}: {found}, expected {gates} {legend[:-9]})")
    _check_dtypes(name, FLOATS, "a real floating", alpha=alpha, beta=beta)
    _check_dtypes(name, DTYPES, "a floating", q=q, k=k, v=v)
    rest = ks[lead + 2 :]
    if gain is not None and tuple(gain.shape) != (ks[lead], *rest):
        raise ShapeError(f"{name}: gain has shape {tuple(gain.shape)}, expected {(ks[lead], *rest)} (N, ...)")
    return _state_shape(name, ks, state, (ks[0], ks[lead], vs[lead + 1], ks[lead + 1], *rest))


def check_decayed_attention(q: Any, k: Any, v: Any, log_a: Any, state: Any) -> tuple[int, ...]:
    """Refuse what is not q, k (B, T, D), v (B, T, N, Dv), log_a (B, T, N), T > 0, real floating; a state may be None.

    Returns: the shape of the state, (B, N, Dv, D). Raises: ShapeError.

    >>> import numpy as np
    >>> k, v = np.zeros((2, 7, 4)), np.zeros((2, 7, 3, 5))
    >>> check_decayed_attention(k, k, v, v[..., 0], None)
    (2, 3, 5, 4)
    """
    name = "decayed_attention"
    _check_dtypes(name, FLOATS, "a real floating", q=q, k=k, v=v, log_a=log_a)
    qs, ks, vs, decays = (tuple(a.shape) for a in (q, k, v, log_a))
    if len(vs) != 4 or len(ks) != 3 or qs != ks or ks[:2] != vs[:2] or decays != vs[:3]:
        got = f"q {qs}, k {ks}, v {vs}, log_a {decays}"
        raise ShapeError(f"{name}: got {got}, expected (B, T, D) twice, (B, T, N, Dv), (B, T, N)")
    return _state_shape(name, ks, state, (vs[0], *vs[2:], ks[2]))


def check_choice(name: str, what: str, value: str, known: Iterable[str]) -> None:
    """A UsageError unless value is among the known ones.

    >>> check_choice("delta_rule", "readout", "last", READOUTS)
    """
    if value not in known:
        raise UsageError(f"unknown {what} {value!r} of {name}: use {' or '.join(known)}")


def _state_shape(name, keys, state: Any, expected) -> tuple[int, ...]:
    if keys[1] == 0:
        raise ShapeError(f"{name}: k of shape {keys} has no steps or heads: give at least one")
    if state is not None and tuple(state.shape) != expected:
        raise ShapeError(f"{name}: state has shape {tuple(state.shape)}, expected {expected}")
    return expected


def _check_dtypes(name, known, expected, **arrays) -> None:
    for what, array in arrays.items():
        dtype = str(array.dtype).removeprefix("torch.")
        if dtype not in known:
            raise ShapeError(f"{name}: {what} is {dtype}, expected {expected} dtype: cast it")
