"""Generalised orders of magnitude (GOOM): numbers as complex logarithms, for ranges that floats cannot hold.

A GOOM is a complex array z = log|x| + i arg x. Multiplying is adding, adding is a stable log-add-exp. float32 ends at
1e38; a complex64 GOOM reaches exp(+-1e38), with a relative error of about 6e-8 |log|x||. Zero has log-magnitude -inf
and phase 0, with no floor and no epsilon; the phase lies in (-pi, pi], and is exactly 0 or pi for real numbers.

For states that stay in range, ordinary complex numbers are faster and more accurate: see this folder's README.md.

A product of 10,000 factors of about 1 / 2, of size 10^-3000 (float64 ends at 10^-308):

>>> import jax, jax.numpy as jnp
>>> x = jax.random.uniform(jax.random.key(0), (10_000,), minval=0.4, maxval=0.6)
>>> float(jnp.prod(x)), round(float(prod(to_goom(x)).real / jnp.log(10.0)), -1)
(0.0, -3040.0)
"""

from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from cssm.core.errors import ShapeError, UsageError
from cssm.core.typing import Complex, Inexact
from cssm.shared.recurrence import check_recurrence
from cssm.shared.reset import check_reset

from ..given import given
from . import arithmetic
from .matrix import later_first, matmul_last
from .recurrence import IMPLEMENTATIONS, recurrence, zeros
from .tree import halve

__all__ = [
    "IMPLEMENTATIONS", "add", "from_goom", "matmul", "matrix_prod", "matrix_scan", "mul", "prod", "scan", "sum",
    "to_goom", "zeros",
]  # fmt: skip


# compiled, so that a call outside jit is one dispatch
_log, _exp, _exp_real = jax.jit(arithmetic.log), jax.jit(arithmetic.exp), jax.jit(arithmetic.exp_real)
_product, _add, _add_last, _matmul = map(
    jax.jit, (arithmetic.product, arithmetic.add, arithmetic.add_last, matmul_last)
)
_recurrence, _halve = jax.jit(recurrence, static_argnums=3), jax.jit(halve, static_argnums=1)
_matrix_scan = jax.jit(partial(lax.associative_scan, later_first))


def to_goom(x: Annotated[ArrayLike, "..."]) -> Complex[Array, "..."]:
    """log|x| + i arg x of a finite array.

    Args:
      x: any shape, real or complex floating (bfloat16 and float16 are taken as float32).

    Returns:
      x's shape, complex64 (complex128 for double precision). 0 gives -inf + 0i; subnormal numbers may count as 0.

    Gradient: 1 / x; 0 at x = 0, where it is not defined. Infinite input gives an infinite log-magnitude, as in log.

    Raises:
      ShapeError: an integer or boolean dtype.

    Source: docs/math.md section 4; Heinsen and Kozachkov (2025), Generalized orders of magnitude.

    >>> import jax.numpy as jnp
    >>> from_goom(to_goom(jnp.array([0.0, -2.0, 1e-30])), real=True).round(3).tolist()
    [0.0, -2.0, 0.0]
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ShapeError(f"to_goom takes real or complex floating arrays, got {x.dtype}: cast it")
    return _log(x.astype(jnp.promote_types(x.dtype, jnp.float32)))


def from_goom(z: Annotated[ArrayLike, "..."], *, real: bool = False) -> Inexact[Array, "..."]:
    """The ordinary numbers exp(z): complex, or with real=True the real part (all there is for GOOMs of real numbers).

    Out of range it gives 0 or infinity, never NaN. Gradient: exp(z), hence 0 at a zero.

    Raises:
      ShapeError: z is not complex.

    >>> import jax.numpy as jnp
    >>> float(from_goom(mul(to_goom(jnp.float32(-3)), to_goom(jnp.float32(2))), real=True).round(5))
    -6.0
    """
    (z,) = _gooms("from_goom", z=z)
    return _exp_real(z) if real else _exp(z)


def mul(a: Annotated[ArrayLike, "..."], b: Annotated[ArrayLike, "..."]) -> Complex[Array, "..."]:
    """The product, by NumPy's broadcasting: log-magnitudes and phases add. Gradient: 1 to both; 0 where it is zero.

    Raises:
      ShapeError: an argument is not complex, or the shapes do not broadcast.
    """
    return _product(*_broadcast("mul", *_gooms("mul", a=a, b=b)))


def add(a: Annotated[ArrayLike, "..."], b: Annotated[ArrayLike, "..."]) -> Complex[Array, "..."]:
    """The sum, by NumPy's broadcasting. Adding a zero changes no bit; x + (-x) of real numbers is exactly zero.

    Gradient: the shares exp(a - out) and exp(b - out); 0 where the sum is exactly zero, where they are not defined.

    Raises:
      ShapeError: an argument is not complex, or the shapes do not broadcast.

    >>> import jax.numpy as jnp
    >>> big = 1000 + to_goom(jnp.float32(3))  # 3 e^1000
    >>> round(float((add(big, big) - big).real), 3), float(add(big, mul(big, to_goom(jnp.float32(-1)))).real)
    (0.693, -inf)
    """
    return _add(*_broadcast("add", *_gooms("add", a=a, b=b)))


def sum(z: Annotated[ArrayLike, "..."], axis: int = -1) -> Complex[Array, "..."]:
    """The sum over an axis, relative to its largest term. Gradient: as `add`.

    Raises:
      ShapeError: z is not complex, or is empty along the axis.
    """
    (z,) = _gooms("sum", z=z)
    return _add_last(jnp.moveaxis(_filled("sum", z, axis), axis, -1))


def prod(z: Annotated[ArrayLike, "..."], axis: int = -1) -> Complex[Array, "..."]:
    """The product over an axis, by halving: rounding errors grow with log2 of its length.

    Raises:
      ShapeError: z is not complex, or is empty along the axis.
    """
    (z,) = _gooms("prod", z=z)
    return _halve(jnp.moveaxis(_filled("prod", z, axis), axis, 0), arithmetic.product)


def matmul(a: Annotated[ArrayLike, "... n m"], b: Annotated[ArrayLike, "... m p"]) -> Complex[Array, "... n p"]:
    """The matrix product of (..., n, m) and (..., m, p): for small matrices, at n m p exponentials each.

    Every sum is taken relative to its own largest term, so that no term is lost to another entry's size.

    Raises:
      ShapeError: an argument is not complex or has fewer than two axes, or the shapes do not fit.

    >>> import jax.numpy as jnp
    >>> a = to_goom(jnp.array([[1.0, -2.0], [0.0, 4.0]]))
    >>> from_goom(matmul(a, a), real=True).round(4).tolist()
    [[1.0, -10.0], [0.0, 16.0]]
    """
    a, b = _gooms("matmul", a=a, b=b)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"matmul: shapes {a.shape} and {b.shape} do not fit, expected (..., n, m) and (..., m, p)")
    return _matmul(a, b)


def scan(
    a: Annotated[ArrayLike, "..."],
    b: Annotated[ArrayLike, "..."],
    h0: Annotated[ArrayLike, "..."] | None = None,
    *,
    axis: int = 1,
    reverse: bool = False,
    reset: Annotated[ArrayLike, "..."] | None = None,
    implementation: str | None = None,
) -> Complex[Array, "..."]:
    """All states of h_t = a_t h_{t-1} + b_t along `axis`, on GOOMs.

    Args:
      a: transition, broadcastable to b by NumPy's rules; size 1 (or missing) along `axis` means the same at every step.
      b: input, time at `axis`, at least one step.
      h0: the state before the first step, b's shape without `axis`; zeros (log-magnitude -inf) when omitted.
      reverse: run from the last step to the first.
      reset: bool, b's axes up to and including `axis`. True makes a_t zero there: h_t = b_t.
      implementation: "sequential" (T sums, one after another: picked on CPU), "associative" (2 T sums in log2 T
        passes: picked on GPU and TPU), or None to pick.

    Returns:
      h, b's shape. Gradient: exact, by the same recurrence run backwards on GOOMs; 0 to and through zeros.

    Raises:
      ShapeError: an argument is not complex, or shapes do not fit. UsageError: an unknown implementation.

    Source: docs/math.md sections 1 and 4.

    >>> import jax.numpy as jnp
    >>> h = scan(to_goom(jnp.float32(-1e30)), to_goom(jnp.ones((1, 4, 1))))
    >>> (h.real[0, :, 0] / jnp.log(10.0)).round().tolist()
    [0.0, 30.0, 60.0, 90.0]
    """
    a, b, *start = _gooms("scan", a=a, b=b, **({} if h0 is None else {"h0": h0}))
    reset = given(reset)
    axis %= _filled("scan", b, axis).ndim
    check_recurrence("goom.scan", a.shape, b.shape, start[0].shape if start else None, axis)
    check_reset("goom.scan", reset, b.shape[: axis + 1])
    if implementation is None:
        implementation = "sequential" if jax.default_backend() == "cpu" else "associative"
    if implementation not in IMPLEMENTATIONS:
        raise UsageError(f"unknown implementation {implementation!r} of goom.scan: use {', '.join(IMPLEMENTATIONS)}")
    a = jnp.moveaxis(a.reshape((1,) * (b.ndim - a.ndim) + a.shape), axis, 0)
    b = jnp.moveaxis(b, axis, 0)
    before = start[0] if start else zeros(b.shape[1:], b.dtype)
    if reset is not None:
        reset = jnp.moveaxis(reset.reshape(reset.shape + (1,) * (b.ndim - reset.ndim)), axis, 0)
        a = jnp.where(reset, zeros((), a.dtype), a)
    if reverse:
        a, b = jnp.flip(a, 0), jnp.flip(b, 0)
    h = _recurrence(a, b, before, implementation)
    return jnp.moveaxis(jnp.flip(h, 0) if reverse else h, 0, axis)


def matrix_scan(a: Annotated[ArrayLike, "... n n"], *, axis: int = -3) -> Complex[Array, "... n n"]:
    """All products A_t .. A_2 A_1 of small matrices (..., n, n) along `axis`, in log2 T passes.

    Raises:
      ShapeError: a is not complex, not of square matrices, or empty along the axis.
    """
    return jnp.moveaxis(_matrix_scan(_matrices("matrix_scan", a, axis)), 0, axis)


def matrix_prod(a: Annotated[ArrayLike, "... n n"], *, axis: int = -3) -> Complex[Array, "... n n"]:
    """The last of `matrix_scan`, A_T .. A_1, for T - 1 matrix products.

    The 10,001st Fibonacci number, 5.4e2089:

    >>> import jax.numpy as jnp
    >>> a = jnp.broadcast_to(to_goom(jnp.array([[1.0, 1.0], [1.0, 0.0]])), (10_000, 2, 2))
    >>> round(float(matrix_prod(a)[0, 0].real / jnp.log(10.0)))
    2090

    Raises:
      ShapeError: as `matrix_scan`.
    """
    return _halve(_matrices("matrix_prod", a, axis), later_first)


def _gooms(function: str, **arrays: ArrayLike) -> list[Array]:
    """The arguments as arrays of one dtype, or a ShapeError that names the one that is no GOOM."""
    found = {name: jnp.asarray(array) for name, array in arrays.items()}
    for name, array in found.items():
        if not jnp.iscomplexobj(array):
            raise ShapeError(f"goom.{function}: {name} is {array.dtype}, expected a GOOM: take to_goom of it first")
    dtype = jnp.result_type(*found.values())
    return [array.astype(dtype) for array in found.values()]


def _broadcast(function: str, a, b):
    try:
        return jnp.broadcast_arrays(a, b)
    except ValueError:
        raise ShapeError(f"goom.{function}: shapes {a.shape} and {b.shape} do not broadcast together") from None


def _filled(function: str, z, axis: int):
    if not -z.ndim <= axis < z.ndim or z.shape[axis] == 0:
        raise ShapeError(f"goom.{function}: nothing along axis {axis} of shape {z.shape}; give at least one entry")
    return z


def _matrices(function: str, a, axis: int):
    (a,) = _gooms(function, a=a)
    if a.ndim < 3 or a.shape[-1] != a.shape[-2] or axis % a.ndim >= a.ndim - 2:
        raise ShapeError(f"goom.{function}: expected square matrices (..., T, n, n), got shape {a.shape}, axis {axis}")
    return jnp.moveaxis(_filled(function, a, axis), axis, 0)
