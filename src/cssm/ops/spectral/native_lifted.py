"""The compiled recurrence on few channels lifted to many, inside JAX programs: `kernels/spectral_lifted.py`.

Complex-linear in inputs, kernel powers and state, so cotangents in JAX's convention pass without conjugates:
sigma_{t-1} = K sigma_t, dK = sigma_T P_T, d lift = Re sum_t sigma_t U_t. What flows to the inputs, pixels as a rule, is
that of the plain path, and left out where nobody reads it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cssm.core.typing import Complex, Float
from cssm.shared.spectral import LIFTED, LIFTED_ADJOINT, MEAN, SLOPES

from .native_call import batched, call_tasks, with_gradient_of

Inputs = Complex[Any, "b t r f"]
Flat = Complex[Any, "c f"]


def native_lifted(
    inputs: Inputs, lift: Float[Any, "r c"], spectrum: Flat, state: Complex[Any, "b c f"], mean: bool
) -> tuple[Complex[Any, "b c f"], Complex[Any, "b c f"]]:
    """(final, shown): the state after the last frame, and that, or the mean over frames."""
    return _lifted(inputs, lift, spectrum, state, mean)


def plain(inputs, lift, spectrum, state, mean):
    """The same in plain operations: for its derivatives."""
    final, total, *_ = _plain_with_slopes(inputs, lift, spectrum, state)
    return final, total / inputs.shape[1] if mean else final


def _plain_with_slopes(inputs, lift, spectrum, state):
    """(final, total, slope, slope_total), frame by frame."""

    def body(carry, frame):
        state, total, slope, slope_total = carry
        slope = spectrum * slope + state
        state = spectrum * state + jnp.einsum("brf,rc->bcf", frame, lift.astype(spectrum.dtype), precision="highest")
        return (state, total + state, slope, slope_total + slope), None

    zeros = jnp.zeros_like(state)
    return lax.scan(body, (state, zeros, zeros, zeros), jnp.moveaxis(inputs, 1, 0))[0]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _lifted(inputs, lift, spectrum, state, mean):
    final, total, *_ = _run(MEAN if mean else 0)(inputs, lift, spectrum, state)
    return final, total / inputs.shape[1] if mean else final


def _forward(inputs, lift, spectrum, state, mean):
    final, total, slope, slope_total = _with_slopes(mean)(inputs, lift, spectrum, state)
    return (final, total / inputs.shape[1] if mean else final), (inputs, lift, spectrum, state, slope, slope_total)


def _backward(mean, saved, cotangents):
    inputs, lift, spectrum, state, slope, slope_total = saved
    to_inputs = jax.vjp(lambda u: plain(u, lift, spectrum, state, mean), inputs)[1](cotangents)[0]
    last, shown = cotangents
    return to_inputs, *_gradients(mean)(inputs, lift, spectrum, state, slope, slope_total, last, shown)


def _with_slopes(mean):
    def of_plain(*arrays):
        final, total, slope, slope_total = _plain_with_slopes(*arrays)
        none = jnp.zeros((0,), final.dtype)
        return [final, total, slope, slope_total] if mean else [final, none, slope, none]

    return with_gradient_of(of_plain, _run(SLOPES + (MEAN if mean else 0)))


def _gradients(mean):
    def run(inputs, lift, spectrum, state, slope, slope_total, last, shown):
        steps = inputs.shape[1]
        last, given = (last, shown / steps) if mean else (last + shown, jnp.zeros((0,), last.dtype))
        before, products = _adjoint(MEAN if mean else 0)(inputs, lift, spectrum, last, given)
        through = last * slope + given * slope_total if mean else last * slope
        return products.sum(0), through.sum(0), before

    def of_plain(inputs, lift, spectrum, state, slope, slope_total, last, shown):
        run = lambda lift, spectrum, state: plain(inputs, lift, spectrum, state, mean)  # noqa: E731
        return jax.vjp(run, lift, spectrum, state)[1]((last, shown))

    return with_gradient_of(of_plain, run)


_lifted.defvjp(_forward, _backward)


def _run(kind: int):
    """(final, total, slope, slope_total) of `spectral_lifted.lifted`; of no size what `kind` does not ask for."""

    def run(inputs, lift, spectrum, state):
        wanted = (True, kind & MEAN, kind & SLOPES, kind == MEAN + SLOPES)
        results = [jax.ShapeDtypeStruct(state.shape if w else (0,), state.dtype) for w in wanted]
        return call_tasks(LIFTED, _tasks(state), (kind,), [lift, inputs, spectrum, state], results)

    return batched(run, shared=(1, 2))


def _adjoint(kind: int):
    def run(inputs, lift, spectrum, last, given):
        products = jax.ShapeDtypeStruct((last.shape[0], *lift.shape), lift.dtype)
        results = [jax.ShapeDtypeStruct(last.shape, last.dtype), products]
        return call_tasks(LIFTED_ADJOINT, _tasks(last), (kind,), [given, inputs, spectrum, last], results)

    return batched(run, shared=(1, 2))


def _tasks(state) -> int:
    from cssm.kernels.spectral_lifted import tasks

    return tasks(state.shape[0], state.shape[1], bool(state.dtype == jnp.complex128))
