"""Small matrices of GOOMs: products, and products over time as a tree or a scan."""

from typing import Any

from cssm.core.typing import Complex

from .arithmetic import add_last
from .recurrence import spread_product


def matmul_last(a: Complex[Any, "... n m"], b: Complex[Any, "... m p"]) -> Complex[Any, "... n p"]:
    """sum_j a_ij b_jk, each sum relative to its own largest term: n^3 exponentials, no term lost."""
    terms = spread_product(a[..., :, None, :], b.mT[..., None, :, :])  # i k j
    return add_last(terms)


def later_first(first: Complex[Any, "... n n"], second: Complex[Any, "... n n"]) -> Complex[Any, "... n n"]:
    return matmul_last(second, first)
