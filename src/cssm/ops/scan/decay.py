"""Decay scan, h_t = exp(log_a_t) h_{t-1} + x_t: the linear recurrence whose decay has no channel axis.

Backward, with u_t = exp(l_t) s_t: s_t = g_t + u_{t+1}, dx = s, dl_t = sum_c u_t h_{t-1}, dh0 = u_1. Only h and log_a
are saved. A decay of exactly 0 selects instead of multiplying: it forgets even inf and NaN, with gradient 0.
"""

from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from cssm.core.errors import UsageError
from cssm.core.typing import Float
from cssm.shared.decay import check_decay_scan

from ..accelerator import has_jax_triton, one_gpu
from ..given import given
from .vjp import IMPLEMENTATIONS, scan_with_vjp

DECAY_IMPLEMENTATIONS = ("sequential", "chunked", "associative", "triton")


def decay_scan(
    log_a: Annotated[ArrayLike, "b t r"],
    x: Annotated[ArrayLike, "b t r c"],
    h0: Annotated[ArrayLike, "b r c"] | None = None,
    *,
    implementation: str | None = None,
) -> Float[Array, "b t r c"]:
    """All states of h_t = exp(log_a_t) h_{t-1} + x_t, where the decay has no channel axis.

    Equals out[b,t,r,c] = sum_{j <= t} exp(log_a[b,j+1,r] + ... + log_a[b,t,r]) x[b,j,r,c] in O(T) work.

    Args:
      log_a: (B, T, R), float32 or float64. -inf forgets: h_t = x_t. Positive values grow, until h itself overflows.
      x: (B, T, R, C), any floating dtype; the carry is float32 at least (float64 where one is given).
      h0: (B, R, C), the state before the first step; zeros when omitted.
      implementation: "sequential" (one pass, in place: picked on CPU), "triton" (one read and one write: picked
        on a single GPU with jax-triton, but for float64), "associative" (log2 T passes: picked elsewhere), "chunked"
        (two short sequential passes), or None to pick. "associative" and "chunked" multiply decays with each other:
        under growth their products can overflow before h does.

    Returns:
      h (B, T, R, C), x's dtype.

    Raises:
      ShapeError: mismatched shapes, T = 0, an integer or complex dtype, log_a in bfloat16 or float16.
      UsageError: an unknown implementation, or "triton" where it cannot run (it says what is missing).

    Source: docs/math.md section 1; source 001.

    >>> import jax.numpy as jnp
    >>> decay_scan(jnp.log(jnp.full((1, 3, 1), 0.5)), jnp.ones((1, 3, 1, 1)))[0, :, 0, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    log_a, x, start = jnp.asarray(log_a), jnp.asarray(x), given(h0)
    check_decay_scan("decay_scan", log_a, x, start)
    if implementation is None:
        implementation = _pick(log_a, x, start)
    if implementation not in DECAY_IMPLEMENTATIONS:
        known = ", ".join(DECAY_IMPLEMENTATIONS)
        raise UsageError(f"unknown implementation {implementation!r} of decay_scan: use {known}")
    carry = jnp.promote_types(jnp.promote_types(x.dtype, log_a.dtype), jnp.float32 if start is None else start.dtype)
    start = jnp.zeros((x.shape[0], *x.shape[2:]), carry) if start is None else start.astype(carry)
    if implementation in ("associative", "chunked"):
        decay = jnp.exp(log_a.astype(carry))[..., None]
        h: Any = scan_with_vjp(decay, x.astype(carry), start, decay == 0, 1, False, IMPLEMENTATIONS[implementation])
        return h.astype(x.dtype)
    return _scan(log_a, x, start, implementation)


def _pick(log_a, x, start) -> str:
    """One read and one write where that can be had: in place on CPU, by the kernel on a GPU."""
    if jax.default_backend() == "cpu":
        return "sequential"
    single = "float64" not in (log_a.dtype, x.dtype, None if start is None else start.dtype)
    return "triton" if single and one_gpu() and has_jax_triton() else "associative"


def decay_scan_cumsum(
    cumsum_A: Annotated[ArrayLike, "b t r"], x: Annotated[ArrayLike, "b t r c"], *, implementation: str | None = None
) -> Float[Array, "b t r c"]:
    """`decay_scan` from the cumulative sum of the log decays: out_t = sum_{j <= t} exp(A_t - A_j) x_j.

    A is differenced, l_t = A_t - A_{t-1}, which adds no error that matters (neighbours are close); but float32 has
    already rounded A where it was summed: at T = 65,536 with decays of 0 to 1 per step the result is wrong by 9e-4
    of its size, and by 1e-7 from log_a. Prefer `decay_scan`, or sum in float64.

    A = -inf at a step forgets what was before it. It cannot come back: the decays after it are lost (-inf + l = -inf),
    so every later step whose A is still -inf is NaN. Use `decay_scan` for resets.

    Args:
      cumsum_A: (B, T, R), float32 or float64. x: (B, T, R, C). implementation: as `decay_scan`.

    Returns:
      (B, T, R, C), x's dtype.

    Raises:
      ShapeError, UsageError: as `decay_scan`.

    Source: source 001 (`ssm_scan_triton`); docs/math.md section 1.

    >>> import jax.numpy as jnp
    >>> decay_scan_cumsum(jnp.log(0.5) * jnp.arange(3.0).reshape(1, 3, 1), jnp.ones((1, 3, 1, 1)))[0, 2, 0].tolist()
    [1.75]
    """
    cumsum_A, x = jnp.asarray(cumsum_A), jnp.asarray(x)
    check_decay_scan("decay_scan_cumsum", cumsum_A, x, decay="cumsum_A")
    log_a = jnp.pad(cumsum_A[:, 1:] - cumsum_A[:, :-1], ((0, 0), (1, 0), (0, 0)))  # the first decay meets no past
    return decay_scan(log_a, x, implementation=implementation)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _scan(log_a, x, h0, implementation):
    if implementation == "triton":
        from . import triton

        return triton.forward(log_a, x, h0)
    return _sequential(log_a, x, h0)


def _forward(log_a, x, h0, implementation):
    h: Any = _scan(log_a, x, h0, implementation)
    return h, (log_a, h, h0)


def _backward(implementation, saved, g):
    log_a, h, h0 = saved
    if implementation == "triton":
        from . import triton

        return triton.backward(log_a, h, h0, g)
    return _sequential_backward(log_a, h, h0, g)


_scan.defvjp(_forward, _backward)


def _at(array, t):
    return lax.dynamic_index_in_dim(array, t, 1, keepdims=False)


def _sequential(log_a, x, h0):
    decays = jnp.exp(log_a.astype(h0.dtype))[..., None]

    def step(t, carry):
        out, h = carry
        a = _at(decays, t)
        h = jnp.where(a == 0, 0, a * h) + _at(x, t).astype(h.dtype)
        return lax.dynamic_update_index_in_dim(out, h.astype(out.dtype), t, 1), h

    return lax.fori_loop(0, x.shape[1], step, (jnp.zeros_like(x), h0))[0]


def _sequential_backward(log_a, h, h0, g):
    decays, steps = jnp.exp(log_a.astype(h0.dtype))[..., None], h.shape[1]

    def step(i, carry):
        dlog_a, dx, u = carry
        t = steps - 1 - i
        a = _at(decays, t)
        s = _at(g, t).astype(u.dtype) + u
        u = jnp.where(a == 0, 0, a * s)
        past = jnp.where(t > 0, _at(h, jnp.maximum(t - 1, 0)).astype(u.dtype), h0)
        total = jnp.where(a == 0, 0, u * past).sum(-1)
        dlog_a = lax.dynamic_update_index_in_dim(dlog_a, total.astype(dlog_a.dtype), t, 1)
        return dlog_a, lax.dynamic_update_index_in_dim(dx, s.astype(dx.dtype), t, 1), u

    return lax.fori_loop(0, steps, step, (jnp.zeros_like(log_a), jnp.zeros_like(h), jnp.zeros_like(h0)))
