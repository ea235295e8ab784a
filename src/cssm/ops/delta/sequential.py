"""One step after another, vectorised over everything else: one pass, for heads over many frequencies.

The gradient keeps the state of every sqrt(T)-th step and recomputes the others a segment at a time, in cache.
With g the cotangent of S_t (JAX's convention: not conjugated), r = S_{t-1} k, c = alpha W, e = beta (v - c r):
S_t = c S_{t-1} + e k^H;  o = S_t q;  g += do q^T;  de = g k*;  dr = -c beta de;  dS = c g + dr k^T;
dk = S_{t-1}^T dr + (g^T e)*;  dv = beta de;  dbeta = de (v - c r);  dc = <g, S_{t-1}> - beta <de, r>;  dq = S_t^T do.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Float, Inexact, Reset
from cssm.shared.delta import Gain, Gates, Keys, Memory, Values


def sequential(
    q: Keys, k: Keys, v: Values, alpha: Gates, beta: Gates, gain: Gain | None, state: Memory, reset: Reset | None,
    readout: str = "all",
) -> tuple[Any, Any]:  # fmt: skip
    flat = lambda a, lead: a.reshape(*a.shape[:lead], -1)  # the frequencies as one axis  # noqa: E731
    arrays = [flat(a, 4) for a in (q, k, v)]
    gain = None if gain is None else flat(gain, 1)
    if readout == "last":
        arrays[0] = None
    final, o, _ = _run(*arrays, alpha, beta, gain, flat(state, 4), reset)
    final = final.reshape(state.shape)
    if o is None:
        return final, jnp.einsum("bnij...,bnj...->bni...", final, q[:, -1])
    return final, o.reshape(v.shape)


@jax.custom_vjp
def _run(q, k, v, alpha, beta, gain, state, reset):
    """The last state, o for every step (None without q), and the state before every segment of steps."""
    steps = k.shape[1]
    size, segments = _segments(steps)
    starts = jnp.zeros((segments, *state.shape), state.dtype)
    o = None if q is None else jnp.zeros(v.shape, v.dtype)

    def step(t, carry):
        s, o = carry
        s = advance(_keep(s, reset, t), _at(k, t), _at(v, t), _decay(alpha, gain, t), _gate(beta, t))[0]
        return s, None if o is None else _put(o, apply(s, _at(q, t)), t, 1)

    def segment(i, carry):
        s, o, starts = carry
        starts = _put(starts, s, i, 0)
        return *lax.fori_loop(i * size, jnp.minimum((i + 1) * size, steps), step, (s, o)), starts

    return lax.fori_loop(0, segments, segment, (state, o, starts))


def _forward(*given):
    kept = _run(*given)  # by its own derivative too, for second ones
    return kept, (*given, kept[2])


def _backward(saved, cotangents):
    return *_slopes(saved, cotangents[:2]), None


@jax.custom_vjp
def _slopes(saved, cotangents):
    """The gradients of q, k, v, alpha, beta, gain and the state."""
    q, k, v, alpha, beta, gain, _, reset, starts = saved
    g, do = cotangents
    steps = k.shape[1]
    size, segments = _segments(steps)
    slopes = {"k": jnp.zeros_like(k), "v": jnp.zeros_like(v), "alpha": jnp.zeros_like(alpha)}
    slopes |= {"beta": jnp.zeros_like(beta), "q": None if q is None else jnp.zeros_like(q)}
    slopes |= {"gain": None if gain is None else jnp.zeros_like(gain)}

    def again(t, first, states):
        s = _keep(_at(states, t - first, 0), reset, t)
        s = advance(s, _at(k, t), _at(v, t), _decay(alpha, gain, t), _gate(beta, t))[0]
        return _put(states, s, t - first + 1, 0)

    def back(t, first, states, g, slopes):
        before, after = _keep(_at(states, t - first, 0), reset, t), _at(states, t - first + 1, 0)
        now = _at(k, t), _at(v, t), _at(alpha, t), _gate(beta, t)
        read = None if q is None else (_at(q, t), _at(do, t))
        g, slope = _step_back(g, before, after, *now, gain, read)
        slopes = {
            name: total if total is None else total + slope[name] if name == "gain" else _put(total, slope[name], t, 1)
            for name, total in slopes.items()
        }
        return _keep(g, reset, t), slopes

    def segment(i, carry):
        states, g, slopes = carry
        first = (segments - 1 - i) * size
        last = jnp.minimum(first + size, steps)
        states = _put(states, _at(starts, segments - 1 - i, 0), 0, 0)
        states = lax.fori_loop(first, last, lambda t, states: again(t, first, states), states)
        body = lambda j, gs: back(last - 1 - j, first, states, *gs)  # noqa: E731
        return states, *lax.fori_loop(0, last - first, body, (g, slopes))

    states = jnp.zeros((size + 1, *starts.shape[1:]), starts.dtype)
    _, g, slopes = lax.fori_loop(0, segments, segment, (states, g, slopes))
    return *(slopes[name] for name in ("q", "k", "v", "alpha", "beta", "gain")), g


def _slopes_backward(given, slopes):
    """Second derivatives: those of the plain loop, which keeps every state. `starts` follow from the rest."""
    (*arrays, reset, starts), cotangents = given

    def plain(arrays, cotangents):
        return jax.vjp(partial(_plain, reset), *arrays)[1](cotangents)

    arrays, cotangents = jax.vjp(plain, arrays, cotangents)[1](slopes)
    return (*arrays, None, jnp.zeros_like(starts)), cotangents


def _plain(reset, q, k, v, alpha, beta, gain, state):
    """`_run` as a loop that JAX differentiates."""

    def step(s, t):
        s = advance(_keep(s, reset, t), _at(k, t), _at(v, t), _decay(alpha, gain, t), _gate(beta, t))[0]
        return s, None if q is None else apply(s, _at(q, t))

    state, o = lax.scan(step, state, jnp.arange(k.shape[1]))
    return state, None if o is None else jnp.moveaxis(o, 0, 1)


_slopes.defvjp(lambda *given: (_slopes(*given), given), _slopes_backward)
_run.defvjp(_forward, _backward)


def _segments(steps):
    size = math.isqrt(steps - 1) + 1
    return size, -(-steps // size)


def advance(
    s: Inexact[Any, "b n dv dk f"], k: Inexact[Any, "b n dk f"], v: Inexact[Any, "b n dv f"],
    decay: Inexact[Any, "b n 1 _"], beta: Float[Any, "b n 1 1"],
) -> tuple[Inexact[Any, "b n dv dk f"], Inexact[Any, "b n dv f"]]:  # fmt: skip
    """S_t, and what was recalled, S_{t-1} k."""
    recall = apply(s, k)
    write = beta * (v - decay * recall)
    return decay[:, :, None] * s + write[:, :, :, None] * k.conj()[:, :, None], recall


def _step_back(g, before, after, k, v, alpha, beta, gain, read):
    """The cotangent of S_{t-1}, and the slopes of one step."""
    alpha = alpha[:, :, None, None]
    decay = alpha if gain is None else alpha * gain[:, None]
    slope = {}
    if read is not None:
        q, do = read
        g = g + do[:, :, :, None] * q[:, :, None]
        slope["q"] = _pull(after, do)
    recall = apply(before, k)
    error = v - decay * recall
    dwrite = apply(g, k.conj())
    drecall = -decay * beta * dwrite
    slope["k"] = _pull(before, drecall) + beta * _pull(g, error).conj()
    slope["v"] = beta * dwrite
    slope["beta"] = (dwrite * error).sum((2, 3)).real
    ddecay = (g * before).sum((2, 3)) - (beta * dwrite * recall).sum(2)  # b n f
    slope["alpha"] = (ddecay if gain is None else ddecay * gain).sum(2).real
    slope["gain"] = None if gain is None else (alpha[:, :, 0] * ddecay).sum(0)
    return decay[:, :, None] * g + drecall[:, :, :, None] * k[:, :, None], slope


def apply(s: Inexact[Any, "b n i j f"], x: Inexact[Any, "b n j f"]) -> Any:
    """sum_j S_ij x_j: (b n i j f), (b n j f) -> (b n i f)."""
    return sum(s[:, :, :, j] * x[:, :, None, j] for j in range(x.shape[2]))


def _pull(s, y) -> Any:
    """sum_i S_ij y_i."""
    return sum(s[:, :, i] * y[:, :, i, None] for i in range(y.shape[2]))


def _gate(gate, t):
    return _at(gate, t)[:, :, None, None]


def _decay(alpha, gain, t):
    """alpha_t W: (b n 1 f), f = 1 without a gain."""
    return _gate(alpha, t) if gain is None else _gate(alpha, t) * gain[:, None]


def _keep(s, reset, t):
    return s if reset is None else jnp.where(_at(reset, t)[:, None, None, None, None], 0, s)


def _at(array, t, axis=1):
    return lax.dynamic_index_in_dim(array, t, axis, keepdims=False)


def _put(array, value, t, axis):
    return lax.dynamic_update_index_in_dim(array, value.astype(array.dtype), t, axis)
