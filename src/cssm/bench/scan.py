"""The linear recurrence and the decay scan, against what one would write without them."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cssm.nn import DecaySSM
from cssm.ops import decay_scan, linear_scan
from cssm.ops.scan import cases

from .frameworks import DIRECTIONS, gradient, has_torch
from .harness import Comparison
from .registry import OP_BENCHES, SWEEP_BENCHES


def associative(a: Any, b: Any):
    """lax.associative_scan with the transition broadcast to the input; gradients by autodiff."""
    combine = lambda p, q: (q[0] * p[0], q[0] * p[1] + q[1])  # noqa: E731
    return lax.associative_scan(combine, (jnp.broadcast_to(a, b.shape), b), axis=1)[1]


def decay_inputs(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    log_a = -jax.random.uniform(jax.random.key(0), shape[:3], minval=0.01, maxval=1.0)
    return log_a, jax.random.normal(jax.random.key(1), shape)


def decay_associative(log_a: Any, x: Any):
    return associative(jnp.exp(log_a)[..., None], x)


@OP_BENCHES.register("linear_scan")
def linear_scan_bench() -> Iterator[Comparison]:
    """The implementations of the linear recurrence against lax.associative_scan with a broadcast."""
    case = cases.BENCHMARKS["decay"]
    a = jax.random.uniform(jax.random.key(0), case.a, minval=0.5)
    b = jax.random.normal(jax.random.key(1), case.b)
    contenders = {"lax.associative_scan": lambda: gradient(associative, a, b)}
    for name in ("sequential", "chunked", "associative"):
        contenders[name] = partial(gradient, partial(linear_scan, implementation=name), a, b)
    yield Comparison(name=f"linear scan {case.b} forward+backward", contenders=contenders, judged="sequential")


@OP_BENCHES.register("decay_scan")
def decay_scan_bench() -> Iterator[Comparison]:
    """JAX: against lax.associative_scan with a broadcast. PyTorch: against the source's masked einsum."""
    shape, long = cases.DECAY_BENCHMARKS["decay_scan"], cases.DECAY_BENCHMARKS["decay_scan_long"]
    yield from (_decay(shape, direction, wanted=1 / 1.5) for direction in DIRECTIONS)
    if has_torch():
        yield from (_decay_torch(shape, direction, wanted=1 / 60) for direction in DIRECTIONS)
    if jax.default_backend() != "cpu":  # far beyond the caches of a GPU; the masked einsum would take 137 GB
        yield from (_decay(long, direction) for direction in DIRECTIONS)
        if has_torch():
            yield from (_decay_torch(long, direction, plain=False) for direction in DIRECTIONS)


@OP_BENCHES.register("decay_ssm")
def decay_ssm_bench() -> Iterator[Comparison]:
    """The DecaySSM layer, 64 x 64 states, 512 steps: the kernel and the chunked form against the naive one."""
    u = jax.random.normal(jax.random.key(0), (2, 512, 64))
    for direction, build in DIRECTIONS.items():
        contenders = {form: partial(_layer, build, form, u) for form in ("naive", "kernel", "chunked")}
        yield Comparison(name=f"DecaySSM {u.shape} {direction}", contenders=contenders, tolerance=1e-3)
        if has_torch():
            from cssm.torch.bench import contenders as makers

            yield Comparison(
                name=f"DecaySSM {u.shape} {direction}",
                framework="torch",
                contenders=makers.decay_ssm(u.shape, direction),
                tolerance=1e-3,
            )


def _layer(build, form, u):
    graph, params = nnx.split(DecaySSM(64, 64, 64, implementation=form, rngs=nnx.Rngs(0)))
    return build(lambda p, u: nnx.merge(graph, p)(u), params, u)


@SWEEP_BENCHES.register("decay_scan")
def decay_scan_sweep() -> Iterator[Comparison]:
    """Forward and backward over T, R and C."""
    for axis, position, values in (("T", 1, (64, 256, 1024, 4096)), ("R", 2, (8, 32, 128)), ("C", 3, (8, 32, 128))):
        for value in values:
            shape = [2, 512, 32, 32]
            shape[position] = value
            yield _decay(tuple(shape), "forward+backward", sweep="decay_scan", axis=axis, value=value)


def _decay(shape, direction, **options) -> Comparison:
    inputs, build = decay_inputs(shape), DIRECTIONS[direction]
    contenders = {
        "lax.associative_scan": lambda: build(decay_associative, *inputs),
        "decay_scan": lambda: build(decay_scan, *inputs),
    }
    return Comparison(
        name=f"decay scan {shape} {direction}", contenders=contenders, **_bytes(shape, direction), **options
    )


def _decay_torch(shape, direction, plain=True, **options) -> Comparison:
    from cssm.torch.bench import contenders

    makers = contenders.decay_scan(shape, direction, plain=plain)
    name = f"decay scan {shape} {direction}"
    return Comparison(name=name, framework="torch", contenders=makers, **_bytes(shape, direction), **options)


def _bytes(shape, direction) -> dict[str, int]:
    """The inputs, and the least traffic: x in and h out; then g and h in, dx out, with log_a beside each pass."""
    batch, steps, rows, columns = shape
    decay, x = 4 * batch * steps * rows, 4 * batch * steps * rows * columns
    passes = 2 * x + decay + (3 * x + 2 * decay if direction == "forward+backward" else 0)
    return {"inputs": decay + x, "traffic": passes}
