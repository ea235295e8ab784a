"""h_t = a_t h_{t-1} + b_t on GOOMs, time first, and its gradient: the recurrence run backwards, on GOOMs too.

A cotangent c of log h is one of c / h of h itself, in JAX's convention (transposed, not conjugated). With
g_t = c_t / h_t: s_t = g_t + a_{t+1} s_{t+1};  c_b = s b;  c_a = s_t a_t h_{t-1}, summed over the axes
a lacks;  c_h0 = s_1 a_1 h_0.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Complex

from .arithmetic import add, exp, is_zero, log, product, quotient


def zeros(shape: Sequence[int], dtype: Any) -> Complex[Any, "..."]:
    """GOOMs of the number 0."""
    return jnp.full(shape, -jnp.inf, dtype)


def _step(h, now):
    a, b = now
    h = spread_add(spread_product(a, h), b)
    return h, h


def spread_product(a: Complex[Any, "..."], b: Complex[Any, "..."]) -> Complex[Any, "..."]:
    return product(*jnp.broadcast_arrays(a, b))


def spread_add(a: Complex[Any, "..."], b: Complex[Any, "..."]) -> Complex[Any, "..."]:
    return add(*jnp.broadcast_arrays(a, b))


def sequential(
    a: Complex[Any, "_ ..."], b: Complex[Any, "t *rest"], h0: Complex[Any, "*rest"]
) -> Complex[Any, "t *rest"]:
    if len(a) == 1:
        return lax.scan(lambda h, b: _step(h, (a[0], b)), h0, b)[1]
    return lax.scan(_step, h0, (a, b))[1]


def combine(first: Any, second: Any) -> tuple[Any, Any]:
    """(a1, b1) then (a2, b2): the pair (a2 a1, a2 b1 + b2). Associative."""
    (a1, b1), (a2, b2) = first, second
    return product(a2, a1), spread_add(spread_product(a2, b1), b2)


def associative(
    a: Complex[Any, "_ ..."], b: Complex[Any, "t *rest"], h0: Complex[Any, "*rest"]
) -> Complex[Any, "t *rest"]:
    b = b.at[0].set(_step(h0, (a[0], b[0]))[0])
    a = jnp.broadcast_to(a, (len(b), *a.shape[1:]))  # over time only
    return lax.associative_scan(combine, (a, b))[1]


IMPLEMENTATIONS = {"sequential": sequential, "associative": associative}


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def recurrence(
    a: Complex[Any, "_ ..."], b: Complex[Any, "t *rest"], h0: Complex[Any, "*rest"], implementation: str
) -> Complex[Any, "t *rest"]:
    """a (T or 1, ...) broadcastable to b (T, ...) with as many axes; h0 (...)."""
    return IMPLEMENTATIONS[implementation](a, b, h0)


def _forward(a, b, h0, implementation):
    h = IMPLEMENTATIONS[implementation](a, b, h0)
    return h, (a, b, h0, h)


def _backward(implementation, saved, c):
    a, b, h0, h = saved
    g = quotient(log(jnp.where(is_zero(h), 0, c)), h)
    next_a = a if len(a) == 1 else jnp.concatenate([a[1:], zeros(a[:1].shape, a.dtype)])
    nothing = zeros(h0.shape, h0.dtype)
    s = jnp.flip(IMPLEMENTATIONS[implementation](jnp.flip(next_a, 0), jnp.flip(g, 0), nothing), 0)
    past = jnp.concatenate([h0[None], h[:-1]])
    c_a = exp(product(spread_product(a, past), s))
    lacking = [i for i, (n, m) in enumerate(zip(c_a.shape, a.shape, strict=True)) if n != m]
    return c_a.sum(lacking, keepdims=True), exp(product(s, b)), c_a[0]


recurrence.defvjp(_forward, _backward)
