from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import made
from cssm.core.errors import UsageError
from made import values_and_gradients
from tolerances import assert_close

B, T, GRID, CHANNELS = 2, 6, (5, 6), 3
NUMERICS = ("goom", "direct")


build = partial(made.mixer, "standard", CHANNELS, kernel_size=5, init_scale=0.3)
MIXERS = {numerics: nnx.split(build(numerics=numerics)) for numerics in NUMERICS}


def both(call, *args):
    """Values and gradients of call(mixer, *args) to the kernel and the arguments, on logarithms and directly."""

    def run(numerics, args):
        graph, params = MIXERS[numerics]
        return values_and_gradients(lambda params, *a: call(nnx.merge(graph, params), *a), params, *args)

    return jax.jit(lambda args: [run(numerics, args) for numerics in NUMERICS])(args)


def clip():
    x = made.clip(t=T, grid=GRID, channels=CHANNELS, batch=B)
    return x.at[:, 2].set(0.0).at[1, 0].set(1.0)  # a black frame, and a flat one: zeros in space, zeros in the spectrum


def test_goom_equals_direct_with_every_gradient():
    reset = jnp.zeros((B, T), bool).at[0, 3].set(True).at[1, 0].set(True)

    def carried(mixer, x):  # from no past, hence from zeros, in two pieces
        state, first = mixer.scan(mixer.init_state(B, GRID), x[:, :2])
        last = mixer.scan(state, x, readout="last")
        return first, last, [mixer.scan(state, x, reset=reset, readout=readout) for readout in ("all", "last", "mean")]

    (values, gradients), (expected, expected_gradients) = both(carried, clip())
    assert_close(values, expected)
    assert_close(gradients, expected_gradients, 1e-5)


def test_goom_steps_and_pools_as_direct():
    def call(mixer, x):
        state, y = mixer.step(mixer.init_state(B, GRID), x[:, 0])
        state, again = mixer.step(state, x[:, 2])  # a black frame
        return state, y, again, mixer.pooled(state, x, readout="mean")

    (values, gradients), (expected, expected_gradients) = both(call, clip())
    assert_close(values, expected)
    assert_close(gradients, expected_gradients, 1e-5)


def test_numerics_is_honoured_and_an_unknown_one_named():
    def traced(numerics):
        mixer = nnx.merge(*MIXERS[numerics])
        return str(jax.make_jaxpr(lambda x: mixer.scan(mixer.init_state(B, GRID), x))(clip()))

    assert "atan2" in traced("goom") and "atan2" not in traced("direct")
    with pytest.raises(UsageError, match="standard: unknown numerics 'log', use direct or goom"):
        build(numerics="log")
