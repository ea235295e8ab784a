"""FFT convolutions: state-space models against the reference algorithm, large kernels against direct convolution."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cssm.ops import fft_conv2d, opt_ssm_forward, opt_ssm_scan
from cssm.ops.fftconv import cases, opt_ssm_forward_reference
from cssm.shared.fft_plan import SSM_STRATEGIES

from .frameworks import DIRECTIONS, forward, gradient, has_torch
from .harness import Comparison
from .registry import OP_BENCHES, SWEEP_BENCHES


@OP_BENCHES.register("opt_ssm_forward")
def opt_ssm_forward_bench() -> Iterator[Comparison]:
    """The automatic strategy against the reference algorithm, then against each strategy forced."""
    for case_name, case in cases.BENCHMARKS.items():
        for side, makers in _ssm_sides(case):
            name = f"opt_ssm_forward {case_name} B{case.batch} L{case.length} H{case.inputs} N{case.states}"
            reference = {key: makers[key] for key in ("reference", "automatic")}
            yield Comparison(name=name, framework=side, contenders=reference, wanted=1 / 2.5, **_ssm_bytes(case))
            forced = {key: makers[key] for key in ("automatic", *SSM_STRATEGIES)}
            yield Comparison(name=f"{name}, forced", framework=side, contenders=forced, at_least=1 / 1.1)


def _ssm_sides(case):
    """(framework, makers of: reference, automatic and every strategy)."""
    arrays = _ssm_inputs(case)
    makers = {"reference": lambda: forward(opt_ssm_forward_reference, *arrays)}
    makers["automatic"] = lambda: forward(opt_ssm_forward, *arrays)
    makers |= {s: partial(forward, partial(opt_ssm_forward, strategy=s), *arrays) for s in SSM_STRATEGIES}
    yield "jax", makers
    if has_torch():
        from cssm.torch.bench import contenders

        yield "torch", contenders.opt_ssm_forward(case)


def _ssm_inputs(case):
    keys = jax.random.split(jax.random.key(0), 4)
    complex_normal = lambda key, *shape: jax.random.normal(key, shape, "complex64")  # noqa: E731
    x = jax.random.normal(keys[0], (case.batch, case.length, case.inputs))
    K = complex_normal(keys[1], case.taps, case.states)
    return x, K, complex_normal(keys[2], case.states, case.inputs), complex_normal(keys[3], case.outputs, case.states)


def _ssm_bytes(case) -> dict[str, Any]:
    x, y = (4 * case.batch * case.length * width for width in (case.inputs, case.outputs))
    parameters = 8 * case.states * (case.taps + case.inputs + case.outputs)
    return {"inputs": x + parameters, "traffic": x + y + parameters}


@OP_BENCHES.register("opt_ssm_scan")
def opt_ssm_scan_bench() -> Iterator[Comparison]:
    """A geometric kernel K = A^l: the recurrence against the convolution, forward and backward."""
    for case_name, case in cases.BENCHMARKS.items():
        x, _, B_, C = _ssm_inputs(case)
        A = 0.98 * jnp.exp(1j * jnp.linspace(0, 3, case.states))
        powers = lambda A, taps=case.taps: A ** jnp.arange(taps)[:, None]  # noqa: E731
        convolution = lambda x, A, B_, C, k=powers: opt_ssm_forward(x, k(A), B_, C, kernel_layout="length_first")  # noqa: E731
        makers = {
            "opt_ssm_forward": partial(gradient, convolution, x, A, B_, C),
            "opt_ssm_scan": partial(gradient, opt_ssm_scan, x, A, B_, C),
        }
        name = f"opt_ssm_scan {case_name}, forward+backward"
        yield Comparison(name=name, contenders=makers, tolerance=1e-3)
        if has_torch():
            from cssm.torch.bench import contenders

            yield Comparison(name=name, framework="torch", contenders=contenders.opt_ssm_scan(case), tolerance=1e-3)


@OP_BENCHES.register("fft_conv2d")
def fft_conv2d_bench() -> Iterator[Comparison]:
    """A 31 x 31 depthwise convolution of (8, 56, 56, 128): the automatic strategy against lax.conv and torch conv2d."""
    for direction in DIRECTIONS:
        yield from _spatial(cases.SPATIAL_BENCHMARKS["31x31"], direction, wanted=1.0)


@SWEEP_BENCHES.register("fft_conv2d")
def fft_conv2d_sweep() -> Iterator[Comparison]:
    """Where the FFT begins to pay: forward over the kernel size, direct, FFT and what is picked."""
    for case in cases.SPATIAL_BENCHMARKS.values():
        yield from _spatial(case, "forward", sweep="fft_conv2d", axis="kernel size", value=case.taps[0])


def _spatial(case, direction, **options) -> Iterator[Comparison]:
    batch, height, width, channels = case.x
    size = 4 * batch * height * width * channels
    name = f"fft_conv2d {case.x}, kernel {case.taps[0]} x {case.taps[1]}, {direction}"
    options |= {"inputs": size, "traffic": size * (2 if direction == "forward" else 4)}
    x, kernel = (
        jax.random.normal(jax.random.key(0), case.x),
        jax.random.normal(jax.random.key(1), (channels, *case.taps)),
    )
    build = DIRECTIONS[direction]
    makers = {
        label: partial(build, partial(fft_conv2d, strategy=strategy), x, kernel)
        for label, strategy in (("direct", "direct"), ("fft", "fft"), ("automatic", None))
    }
    yield Comparison(name=name, contenders=makers, judged="automatic", **options)
    if has_torch():
        from cssm.torch.bench import contenders

        makers = contenders.fft_conv2d(case, direction)
        yield Comparison(name=name, framework="torch", contenders=makers, judged="automatic", **options)
