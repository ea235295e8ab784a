"""The same operations on ordinary complex numbers: obvious, right in float64 as long as nothing leaves its range.

Gradients by autodiff, hence not defined at zeros. Arguments as the functions of the same names in `cssm.ops.goom`.
"""

import jax.numpy as jnp
from jax import lax

from ..scan.reference import linear_scan_reference


def to_goom_reference(x):
    return jnp.log(x.astype(jnp.promote_types(x.dtype, jnp.complex64)))


def add_reference(a, b):
    return jnp.log(jnp.exp(a) + jnp.exp(b))


def sum_reference(z, axis=-1):
    return jnp.log(jnp.exp(z).sum(axis))


def prod_reference(z, axis=-1):
    return jnp.log(jnp.exp(z).prod(axis))


def matmul_reference(a, b):
    return jnp.log(jnp.matmul(jnp.exp(a), jnp.exp(b), precision="highest"))


def scan_reference(a, b, h0, reset=None):
    return jnp.log(linear_scan_reference(jnp.exp(a), jnp.exp(b), jnp.exp(h0), reset=reset))


def matrix_scan_reference(a):
    """Time first: A_t .. A_1 for every t."""

    def step(product, now):
        product = jnp.matmul(now, product, precision="highest")
        return product, product

    return jnp.log(lax.scan(step, jnp.eye(a.shape[-1], dtype=a.dtype), jnp.exp(a))[1])
