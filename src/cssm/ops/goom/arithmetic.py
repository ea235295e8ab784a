"""Elementwise arithmetic of GOOMs and its gradients. All maps are holomorphic, so a cotangent is a plain product.

A zero has log-magnitude -inf and phase 0. The number +1 or -1 has phase 0 or the nearest float to pi, exactly, and
`polar` takes that float for pi: real numbers stay real, and x + (-x) is exactly 0.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cssm.core.typing import Bool, Complex, Float, Inexact

TWO_PI_ERROR = 2.4492935982947064e-16  # 2 pi minus the nearest float64


def two_pi(dtype: Any) -> tuple[float, float]:
    """2 pi as the nearest number of that dtype, and what it lacks."""
    nearest = float(np.asarray(2 * math.pi, dtype))
    return nearest, 2 * math.pi - nearest + TWO_PI_ERROR


def is_zero(z: Complex[Any, "..."]) -> Bool[Any, "..."]:
    return z.real == -jnp.inf


def polar(phase: Float[Any, "..."]) -> tuple[Float[Any, "..."], Float[Any, "..."]]:
    """(cos, sin); exactly (-1, 0) at the floats nearest to pi and -pi."""
    negative = jnp.abs(phase) == jnp.asarray(math.pi, phase.dtype)
    return jnp.where(negative, -1, jnp.cos(phase)), jnp.where(negative, 0, jnp.sin(phase))


def turn(p: Float[Any, "..."], q: Float[Any, "..."]) -> Float[Any, "..."]:
    """The phase p + q in (-pi, pi], for p and q in it. Real numbers (multiples of pi) stay exactly real."""
    phase = p + q
    part = phase - p
    lost = (p - (phase - part)) + (q - part)  # by rounding phase (Knuth's two-sum)
    nearest, lacking = two_pi(phase.dtype)
    turns = (phase > nearest / 2).astype(phase.dtype) - (phase <= -nearest / 2).astype(phase.dtype)
    wrapped = phase - turns * nearest
    real = (lost == 0) & ((wrapped == 0) | (wrapped == nearest / 2))
    return jnp.where(real, wrapped, wrapped + (lost - turns * lacking))


def turned(log: Float[Any, "..."], p: Float[Any, "..."], q: Float[Any, "..."]) -> Complex[Any, "..."]:
    """The GOOM of that log-magnitude and of phase p + q; 0 for a zero."""
    return lax.complex(log, jnp.where(log == -jnp.inf, 0, turn(p, q)).astype(log.dtype))


def size(x: Inexact[Any, "..."]) -> Float[Any, "..."]:
    """The magnitude of the larger part."""
    return jnp.maximum(jnp.abs(x.real), jnp.abs(x.imag)) if jnp.iscomplexobj(x) else jnp.abs(x)


def vanishes(x: Inexact[Any, "..."]) -> Bool[Any, "..."]:
    """Zero, or subnormal: what XLA's arithmetic may flush to zero."""
    return size(x) < jnp.finfo(x.dtype).tiny


@jax.custom_vjp
def log(x: Inexact[Any, "..."]) -> Complex[Any, "..."]:
    """log|x| + i arg x of a real or complex array; a zero gives -inf. No floor."""
    if not jnp.iscomplexobj(x):
        log, phase = jnp.log(jnp.abs(x)), jnp.where(x < 0, math.pi, 0)
    else:
        phase = jnp.where(x.imag == 0, jnp.where(x.real < 0, math.pi, 0), jnp.arctan2(x.imag, x.real))
        log = _log_magnitude(x)
    zero = vanishes(x)
    return lax.complex(jnp.where(zero, -jnp.inf, log), jnp.where(zero, 0, phase).astype(log.dtype))


def _log_magnitude(x):
    """log|x| without squaring a tiny or a huge part."""
    large, small = size(x), jnp.minimum(jnp.abs(x.real), jnp.abs(x.imag))
    return jnp.log(large) + 0.5 * jnp.log1p(jnp.square(small / jnp.where(large == 0, 1, large)))


def _log_backward(x, g):
    zero = vanishes(x)
    x = jnp.where(zero, 1, x)
    if not jnp.iscomplexobj(x):
        return (jnp.where(zero, 0, g.real / x),)
    scale = size(x)
    unit = lax.complex(x.real / scale, x.imag / scale)  # its square neither vanishes nor overflows
    slope = g * unit.conj() / (jnp.square(unit.real) + jnp.square(unit.imag))
    return (jnp.where(zero, 0, lax.complex(slope.real / scale, slope.imag / scale)),)


log.defvjp(lambda x: (log(x), x), _log_backward)


def _scale(magnitude, value):
    """magnitude * value, with 0 * inf = 0."""
    return jnp.where(value == 0, 0, magnitude * value)


def _times_exp(z, g):
    """g exp(z): 0 where g is 0, infinite (not NaN) where the magnitude overflows."""
    cos, sin = polar(z.imag)
    magnitude = jnp.exp(z.real)
    if not jnp.iscomplexobj(g):
        return lax.complex(_scale(magnitude, cos * g), _scale(magnitude, sin * g))
    value = g * lax.complex(cos, sin)
    return lax.complex(_scale(magnitude, value.real), _scale(magnitude, value.imag))


@jax.custom_vjp
def exp(z: Complex[Any, "..."]) -> Complex[Any, "..."]:
    """The ordinary complex number; 0 for a zero, infinite where it overflows."""
    return _times_exp(z, jnp.ones((), z.real.dtype))


exp.defvjp(lambda z: (exp(z), z), lambda z, g: (_times_exp(z, g),))


@jax.custom_vjp
def exp_real(z: Complex[Any, "..."]) -> Float[Any, "..."]:
    """The real part of the ordinary number: exact for GOOMs of real numbers."""
    return _scale(jnp.exp(z.real), polar(z.imag)[0])


exp_real.defvjp(lambda z: (exp_real(z), z), lambda z, g: (_times_exp(z, g),))


@jax.custom_vjp
def product(a: Complex[Any, "..."], b: Complex[Any, "..."]) -> Complex[Any, "..."]:
    return turned(a.real + b.real, a.imag, b.imag)


def _product_backward(zero, g):
    g = jnp.where(zero, 0, g)
    return g, g


product.defvjp(lambda a, b: (out := product(a, b), is_zero(out)), _product_backward)


def quotient(a: Complex[Any, "..."], b: Complex[Any, "..."]) -> Complex[Any, "..."]:
    """a / b, and 0 where b is 0: the share of a part in a whole that may have vanished."""
    log = jnp.where(is_zero(a) | is_zero(b), -jnp.inf, a.real - jnp.where(is_zero(b), 0, b.real))
    return turned(log, a.imag, -b.imag)


@jax.custom_vjp
def add(a: Complex[Any, "..."], b: Complex[Any, "..."]) -> Complex[Any, "..."]:
    """log(exp a + exp b) = l + log(1 + exp(s - l)), l the larger: adding a zero changes no bit."""
    first = a.real >= b.real
    large, small = jnp.where(first, a, b), jnp.where(first, b, a)
    return product(large, log(1 + exp(quotient(small, large))))


def _add_backward(saved, g):
    a, b, out = saved
    return g * exp(quotient(a, out)), g * exp(quotient(b, out))


add.defvjp(lambda a, b: (out := add(a, b), (a, b, out)), _add_backward)


@jax.custom_vjp
def add_last(z: Complex[Any, "*lead n"]) -> Complex[Any, "*lead"]:
    """log sum_j exp(z_j) over the last axis, relative to the largest term."""
    large = jnp.take_along_axis(z, jnp.argmax(z.real, -1, keepdims=True), -1)
    return product(large[..., 0], log(exp(quotient(z, large)).sum(-1)))


def _add_last_backward(saved, g):
    z, out = saved
    return (g[..., None] * exp(quotient(z, out[..., None])),)


add_last.defvjp(lambda z: (out := add_last(z), (z, out)), _add_last_backward)
