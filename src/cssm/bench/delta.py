"""The delta rule and decayed attention: chunks of matrix products against the definition, one step after another."""

from collections.abc import Iterator
from functools import partial

import jax

from cssm.ops import decayed_attention, delta_rule
from cssm.ops.delta import cases

from .frameworks import DIRECTIONS, has_torch
from .harness import Comparison
from .registry import OP_BENCHES


@OP_BENCHES.register("delta")
def delta_bench() -> Iterator[Comparison]:
    """Real tokens, forward, and forward and backward, in JAX and PyTorch; then heads over frequencies, in JAX."""
    case = cases.BENCHMARKS["tokens"]
    named = f"({case.batch}, {case.steps}, {case.heads}, {case.keys})"
    for direction in DIRECTIONS:
        yield Comparison(name=f"delta_rule {named} {direction}", contenders=_delta(case, direction, "chunked"))
        yield Comparison(name=f"decayed_attention {named} {direction}", contenders=_attention(case, direction))
        if has_torch():
            from cssm.torch.bench import contenders

            delta, attention = contenders.delta_rule(case, direction), contenders.decayed_attention(case, direction)
            yield Comparison(name=f"delta_rule {named} {direction}", framework="torch", contenders=delta)
            yield Comparison(name=f"decayed_attention {named} {direction}", framework="torch", contenders=attention)
    case = cases.BENCHMARKS["gdn"]
    makers = _delta(case, "forward+backward", "sequential")
    yield Comparison(name=f"delta_rule {case.frequencies} frequencies, forward+backward", contenders=makers)


def _delta(case: cases.Case, direction: str, implementation: str):
    """Makers of the definition and of one implementation."""
    draw = partial(_normal, dtype="complex64" if case.complex else "float32")
    lead, rest = (case.batch, case.steps, case.heads), case.frequencies
    q, k, v = (draw(seed, (*lead, d, *rest)) for seed, d in enumerate((case.keys, case.keys, case.values)))
    k /= abs(k).max() * case.keys**0.5  # norms of at most 1
    alpha, beta = (jax.nn.sigmoid(_normal(seed, lead)) for seed in (3, 4))
    return {
        name: partial(DIRECTIONS[direction], partial(delta_rule, implementation=name), q, k, v, alpha, beta)
        for name in ("reference", implementation)
    }


def _attention(case: cases.Case, direction: str):
    q, k = (_normal(seed, (case.batch, case.steps, case.keys)) for seed in (0, 1))
    v = _normal(2, (case.batch, case.steps, case.heads, case.values))
    arrays = q, k, v, -jax.nn.softplus(_normal(3, v.shape[:3]))
    return {
        name: partial(DIRECTIONS[direction], partial(decayed_attention, implementation=name), *arrays)
        for name in ("reference", "chunked")
    }


def _normal(seed: int, shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, dtype)
