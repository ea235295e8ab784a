"""grad of grad of every operator with a gradient of its own, against central differences of grad in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm import ops
from cssm.ops import goom


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def sigmoid(*shape, seed=0):
    return jax.nn.sigmoid(draw(*shape, seed=seed))


def delta(implementation, **options):
    def run(q, k, v, alpha, beta, state):
        return ops.delta_rule(q, k, v, alpha, beta, state=state, implementation=implementation, **options)

    keys = (draw(1, 5, 2, 3), 0.3 * draw(1, 5, 2, 3, seed=1), draw(1, 5, 2, 2, seed=2))
    return run, (*keys, sigmoid(1, 5, 2), sigmoid(1, 5, 2, seed=3), draw(1, 2, 2, 3, seed=4))


def delta_with_gain(q, k, v, gain):
    q, k = q + 0.5j * k, 0.3 * k + 0.2j * q
    return ops.delta_rule(q, k, v + 0j, sigmoid(1, 4, 2), sigmoid(1, 4, 2, seed=1), gain=0.4 * gain + 0.1j * gain)


def spectral(**options):
    def run(x, kernel):
        return ops.spectral_scan(x, ops.kernel_spectrum(0.2 * kernel, (4, 5)), **options)

    return run, (draw(1, 3, 4, 5, 2), draw(2, 3, 3, seed=1))


def goom_scan(a, b):
    h = goom.scan(goom.to_goom(jnp.abs(a) + 0.1), goom.to_goom(jnp.abs(b) + 0.1), axis=1)
    return goom.to_float(goom.sum(h, axis=1)) if hasattr(goom, "to_float") else h.real


LINEAR, DECAY = (0.3 * draw(1, 5, 3), draw(1, 5, 3, seed=1)), (-jnp.abs(draw(1, 5, 2)), draw(1, 5, 2, 3, seed=1))
FREQUENT = tuple(draw(1, 4, 2, 2, 3, seed=s) for s in range(3))
CASES = {
    **{f"linear_scan {i}": ((lambda a, b, i=i: ops.linear_scan(a, b, implementation=i)), LINEAR)
       for i in ("sequential", "chunked", "associative")},
    **{f"decay_scan {i}": ((lambda a, x, i=i: ops.decay_scan(a, x, implementation=i)), DECAY)
       for i in ("sequential", "chunked", "associative")},
    **{f"spectral_scan {i} {r}": spectral(implementation=i, readout=r)
       for i in ("stream", "parallel") for r in ("all", "last", "mean")},
    "delta_rule chunked": delta("chunked"),
    "delta_rule sequential": delta("sequential"),
    "delta_rule sequential, last, resets": delta("sequential", readout="last", reset=jnp.arange(5)[None] == 2),
    "delta_rule with a gain per frequency": (delta_with_gain, (*FREQUENT, draw(2, 3, seed=4))),
    "goom.scan": (goom_scan, LINEAR),
}  # fmt: skip


LATER = ("delta_rule sequential, last, resets", "delta_rule with a gain per frequency", "spectral_scan stream all")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in LATER else name for name in CASES]


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_equal_differences_of_the_first(x64, name):
    function, arguments = CASES[name]
    arguments = tuple(jnp.asarray(a, jnp.float64) for a in arguments)
    every = tuple(range(len(arguments)))

    def loss(*arguments):
        return sum((jnp.abs(v) ** 2).sum() + jnp.real(v).sum() for v in jax.tree.leaves(function(*arguments)))

    @jax.jit
    def size(*arguments):
        return sum((jnp.abs(g) ** 2).sum() for g in jax.grad(loss, every)(*arguments))

    slopes = jax.jit(jax.grad(size, every))(*arguments)
    for i, slope in enumerate(slopes):
        way = draw(*slope.shape, seed=9)
        moved = lambda step: size(*arguments[:i], arguments[i] + step * way, *arguments[i + 1 :])  # noqa: B023, E731
        expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
        np.testing.assert_allclose((slope * way).sum(), expected, rtol=1e-5, atol=1e-5 * float(jnp.abs(slope).max()))
