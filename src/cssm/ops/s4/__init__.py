"""Convolution kernels of structured state spaces: S4D (diagonal) and S4 (diagonal minus low rank).

The maths and the cost of each implementation are in this folder's README.md.
"""

from typing import Annotated

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from cssm.core.errors import ShapeError
from cssm.core.typing import Float
from cssm.shared.s4_options import check_discretisation, check_implementation

from . import cauchy, diagonal, dplr
from .reference import kernel_reference, s4_matrices, s4d_matrices

__all__ = ["diagonal", "dplr", "kernel_reference", "s4_kernel", "s4_matrices", "s4d_kernel", "s4d_matrices"]


def s4d_kernel(
    A: Annotated[ArrayLike, "h n"],
    B: Annotated[ArrayLike, "h n"],
    C: Annotated[ArrayLike, "c h n"],
    dt: Annotated[ArrayLike, "h"],
    length: int,
    *,
    disc: str = "zoh",
) -> Float[Array, "c h l"]:
    """Impulse response of diagonal state spaces, one per head, over conjugate pairs.

    Equivalent to::

        K[c, h, l] = 2 Re sum_n C[c, h, n] A_bar[h, n]**l B_bar[h, n]

    with z = dt A and, for "zoh", A_bar = exp(z), B_bar = (A_bar - 1) / A * B; for "bilinear",
    A_bar = (1 + z/2) / (1 - z/2), B_bar = dt B / (1 - z/2).

    Args:
      A, B: (H, n) complex: one half of the N = 2n conjugate eigenvalues (negative real part: the response decays), and
        their inputs. C: (C, H, n) complex. dt: (H,) real, positive.
      length: L, the number of taps. disc: "zoh" or "bilinear".

    Returns:
      K (C, H, L), real. The work is one matrix product of (C sqrt(L), N) and (N, sqrt(L)) per head.

    Raises:
      ShapeError: shapes or dtypes that do not fit, or no taps. UsageError: an unknown discretisation.

    Source: docs/math.md section 5; Gu et al. 2022 (S4D), section 3.

    >>> A, B = jnp.full((1, 1), -1 + 0j), jnp.ones((1, 1), complex)
    >>> K = s4d_kernel(A, B, B[None], jnp.log(jnp.array([2.0])), 3)  # A_bar = B_bar = 1/2
    >>> [round(float(tap), 4) for tap in K[0, 0]]
    [1.0, 0.5, 0.25]
    """
    A, B, C, dt = _check("s4d_kernel", length, A=A, B=B, C=C, dt=dt)
    system = diagonal.discretise(A, B, C, dt, check_discretisation("s4d", disc))
    return diagonal.kernel(system, diagonal.plan(system, length), length)


def s4_kernel(
    A: Annotated[ArrayLike, "h n"],
    P: Annotated[ArrayLike, "r h n"],
    B: Annotated[ArrayLike, "h n"],
    C: Annotated[ArrayLike, "c h n"],
    dt: Annotated[ArrayLike, "h"],
    length: int,
    *,
    implementation: str | None = None,
) -> Float[Array, "c h l"]:
    """Impulse response of diagonal-minus-low-rank state spaces, diag(A) - P P^*, discretised by the bilinear rule.

    Equivalent to::

        M = diag(A, conj(A)) - [P, conj(P)]^T [P, conj(P)]^*               (N, N), per head
        A_bar, B_bar = solve(I - dt/2 M, I + dt/2 M), solve(I - dt/2 M, dt [B, conj(B)])
        K[c, h, l] = [C, conj(C)][c, h] @ A_bar**l @ B_bar

    Args:
      A, B: (H, n) complex, C: (C, H, n) complex, dt: (H,) real, as `s4d_kernel`. P: (r, H, n) complex, r small.
      length: L, the number of taps: exactly the first L of the response, not its periodic sum.
      implementation: "krylov" (products of powers of A_bar: the choice, the fastest) or "cauchy" (the generating
        function at roots of unity by Woodbury's identity: the S4 paper's; smaller errors for undamped A), or None.

    Returns:
      K (C, H, L), real.

    Raises:
      ShapeError: shapes or dtypes that do not fit, or no taps. UsageError: an unknown implementation.

    Source: docs/math.md section 5; Gu et al. 2022 (S4), section 3 and appendix C.

    >>> A, one = jnp.full((1, 1), -0.5 + 0j), jnp.ones((1, 1), complex)
    >>> K = s4_kernel(A, 0.5 * one[None], one, one[None], jnp.ones(1), 3)  # M (1, 1) = -(1, 1): A_bar = 1/3
    >>> [round(float(tap), 4) for tap in K[0, 0]]
    [1.3333, 0.4444, 0.1481]
    """
    A, P, B, C, dt = _check("s4_kernel", length, A=A, P=P, B=B, C=C, dt=dt)
    system = dplr.discretise(A, P, B, C, dt)
    if check_implementation("s4", implementation) == "cauchy":
        return cauchy.kernel(system, length)
    return dplr.kernel(system, dplr.plan(system, length), length)


SHAPES = {"A": "h n", "P": "r h n", "B": "h n", "C": "c h n", "dt": "h"}


def _check(name: str, length: int, **arrays):
    arrays = {key: jnp.asarray(value) for key, value in arrays.items()}
    if arrays["A"].ndim != 2:
        raise ShapeError(f"{name}: A has shape {arrays['A'].shape}, expected (H, n): one row of eigenvalues per head")
    sizes = dict(zip("hn", arrays["A"].shape, strict=True))
    for key, array in arrays.items():
        letters = SHAPES[key].split()
        expected = [sizes.get(letter, letter) for letter in letters]
        fits = len(array.shape) == len(letters) and all(map(_fits, array.shape, expected))
        if not fits:
            raise ShapeError(f"{name}: {key} has shape {array.shape}, expected ({', '.join(map(str, expected))})")
        wanted = jnp.floating if key == "dt" else jnp.complexfloating
        if not jnp.issubdtype(array.dtype, wanted):
            raise ShapeError(f"{name}: {key} is {array.dtype}, expected {'real' if key == 'dt' else 'complex'} floats")
    if length < 1:
        raise ShapeError(f"{name}: length is {length}, expected at least one tap")
    dtype = jnp.result_type(*arrays.values())
    return [v.astype(dtype if jnp.iscomplexobj(v) else jnp.finfo(dtype).dtype) for v in arrays.values()]


def _fits(size: int, expected: int | str) -> bool:
    return size > 0 and (isinstance(expected, str) or size == expected)
