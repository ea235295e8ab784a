"""S4 kernels against the state space built as dense matrices and stepped tap by tap."""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from cssm.ops import s4_kernel, s4d_kernel
from cssm.ops.s4 import cases, kernel_reference, s4_matrices, s4d_matrices

from .frameworks import forward
from .harness import Comparison
from .registry import OP_BENCHES


@OP_BENCHES.register("s4")
def s4_bench() -> Iterator[Comparison]:
    """S4D and S4 kernels of 64 heads, 64 states, 1024 taps: ours against the dense recurrence; forward."""
    case = cases.BENCHMARKS["layer"]
    A, B, C, dt, P = _parameters(case)
    diagonal = {
        "dense, tap by tap": lambda: forward(
            lambda *a: kernel_reference(*s4d_matrices(*a), length=case.length), A, B, C, dt
        ),
        "s4d_kernel": lambda: forward(lambda *a: s4d_kernel(*a, length=case.length), A, B, C, dt),
    }
    yield Comparison(name=f"S4D kernel, {case}", contenders=diagonal)
    low_rank = {
        "dense, tap by tap": partial(
            forward, lambda *a: kernel_reference(*s4_matrices(*a), length=case.length), A, P, B, C, dt
        )
    }
    for implementation in ("krylov", "cauchy"):
        function = lambda *a, i=implementation: s4_kernel(*a, length=case.length, implementation=i)  # noqa: E731
        low_rank[implementation] = partial(forward, function, A, P, B, C, dt)
    yield Comparison(name=f"S4 kernel, {case}", contenders=low_rank, tolerance=1e-3)


def _parameters(case):
    """A damped spectrum at the S4D-Lin frequencies, rank one, in single precision."""
    half, heads = case.d_state // 2, case.heads
    normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape, "complex64")  # noqa: E731
    A = jnp.broadcast_to(jnp.asarray(-0.5 + 1j * np.pi * np.arange(half), "complex64"), (heads, half))
    dt = jnp.exp(jax.random.uniform(jax.random.key(0), (heads,), minval=np.log(1e-3), maxval=np.log(1e-1)))
    return A, jnp.ones((heads, half), "complex64"), normal(1, case.channels, heads, half), dt, normal(2, 1, heads, half)
