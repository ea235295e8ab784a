"""The same operations on ordinary complex numbers: obvious, right in float64 as long as nothing leaves its range.

Gradients by autodiff, hence not defined at zeros. Arguments as the functions of the same names in `cssm.ops.goom`.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Complex, Inexact, Reset

from ..scan.reference import linear_scan_reference


def to_goom_reference(x: Inexact[Any, "..."]) -> Complex[Any, "..."]:
    return jnp.log(x.astype(jnp.promote_types(x.dtype, jnp.complex64)))


def add_reference(a: Complex[Any, "..."], b: Complex[Any, "..."]) -> Complex[Any, "..."]:
    return jnp.log(jnp.exp(a) + jnp.exp(b))


def sum_reference(z: Complex[Any, "..."], axis: int = -1) -> Complex[Any, "..."]:
    return jnp.log(jnp.exp(z).sum(axis))


def prod_reference(z: Complex[Any, "..."], axis: int = -1) -> Complex[Any, "..."]:
    return jnp.log(jnp.exp(z).prod(axis))


def matmul_reference(a: Complex[Any, "... n m"], b: Complex[Any, "... m p"]) -> Complex[Any, "... n p"]:
    return jnp.log(jnp.matmul(jnp.exp(a), jnp.exp(b), precision="highest"))


def scan_reference(
    a: Complex[Any, "..."], b: Complex[Any, "..."], h0: Complex[Any, "..."], reset: Reset | None = None
) -> Complex[Any, "..."]:
    return jnp.log(linear_scan_reference(jnp.exp(a), jnp.exp(b), jnp.exp(h0), reset=reset))


def matrix_scan_reference(a: Complex[Any, "t ... n n"]) -> Complex[Any, "t ... n n"]:
    """Time first: A_t .. A_1 for every t."""

    def step(product, now):
        product = jnp.matmul(now, product, precision="highest")
        return product, product

    return jnp.log(lax.scan(step, jnp.eye(a.shape[-1], dtype=a.dtype), jnp.exp(a))[1])
