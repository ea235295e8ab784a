"""The compiled spectral kernel on CPUs: against the path without it, and against rfft2 + lax.associative_scan."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from cssm.core.errors import UsageError
from cssm.kernels import xla_cpu
from cssm.ops import spectral_scan
from cssm.ops.spectral import cases
from cssm.ops.spectral.native_call import why_not, without_compiled_kernels

from . import mixers
from .frameworks import DIRECTIONS, forward, has_torch
from .harness import Comparison
from .registry import OP_BENCHES, SWEEP_BENCHES
from .spectral import clip_and_spectrum, plain, traffic

WANTED = {"long": 2.5, "last": 2.2, "clip": 2.0}  # times as fast as without; others 1.5


def flops(shape: tuple[int, ...], readout: str, direction: str) -> int:
    """Additions and multiplications of the kernel: 2.5 n log2 n a transform of a real frame of n pixels, and 8 or 16 a
    frequency for the recurrence, forward or with P."""
    batch, steps, height, width, channels = shape
    n = height * width
    transform, product = 2.5 * n * math.log2(max(n, 2)), 4 * n
    once = 2 * transform + product if readout == "all" else transform + product
    if direction == "forward+backward":
        once += 3 * transform + 3 * product if readout == "all" else transform + 3 * product
    return round(batch * steps * channels * once)


def scanned(x: Any, spectrum: Any, readout: str, implementation: str):
    return spectral_scan(x, spectrum, readout=readout, implementation=implementation)[1]


def associative_frames(x: Any, spectrum: Any, readout: str):
    y = plain(x, spectrum)
    return y if readout == "all" else y[:, -1]


@OP_BENCHES.register("spectral_cpu")
def spectral_cpu_bench() -> Iterator[Comparison]:
    """The compiled CPU kernel against the path without it and against rfft2 + lax.associative_scan; in PyTorch against
    torch.fft on its best layout and a loop."""
    for case, readout, shape in (
        ("long", "all", (1, 256, 32, 32, 32)), ("last", "last", (1, 256, 32, 32, 32)),
        ("clip", "all", cases.BENCHMARKS["all_frames"]), ("large", "all", (2, 16, 64, 64, 32)),
        ("patches", "all", (4, 8, 14, 14, 192)), ("primes", "all", (1, 32, 97, 61, 16)),
    ):  # fmt: skip
        for direction in DIRECTIONS:
            yield _against_today(case, readout, shape, direction)
            if has_torch():
                yield _in_torch(readout, shape, direction)

    yield from _cells()
    yield _scaling()


def _cells() -> Iterator[Comparison]:
    """The mixers whose gates change from frame to frame, which the kernel of `ops/cell` takes, whole."""
    for name in ("gated", "opponent", "gdn"):
        contenders = {"without": _without(mixers.compiled(name)), "native": mixers.compiled(name)}
        yield mixers.comparison(name, contenders, judged="native", wanted=1 / 1.5)


def _without(make: Callable) -> Callable:
    """That maker, where compiled kernels are turned off."""

    def build():
        with without_compiled_kernels():
            return make()

    return build


def _scaling() -> Comparison:
    """One thread against two."""
    x, spectrum = clip_and_spectrum((1, 256, 32, 32, 32))
    build = DIRECTIONS["forward+backward"]
    run = build(partial(scanned, readout="all", implementation="native"), x, spectrum)
    contenders = {f"{n} thread{'s' * (n > 1)}": lambda n=n: partial(_with_threads, n, run) for n in (1, 2)}
    return Comparison(name=f"spectral all {x.shape} forward+backward, threads", contenders=contenders)


def _with_threads(threads: int, run: Any):
    with xla_cpu.limited_to(threads):
        return jax.block_until_ready(run())


def _against_today(case, readout, shape, direction) -> Comparison:
    x, spectrum = clip_and_spectrum(shape)
    reason = why_not(*x.shape[2:4])
    if reason is not None:
        raise UsageError(f"cssm bench: the compiled kernel cannot run here: {reason}")
    build = DIRECTIONS[direction]
    today = "clip" if readout == "all" and case == "clip" else "stream"
    contenders = {
        "without": lambda: build(partial(scanned, readout=readout, implementation=today), x, spectrum),
        "native": lambda: build(partial(scanned, readout=readout, implementation="native"), x, spectrum),
    }
    if case in ("long", "last", "clip"):
        contenders["rfft2 + associative_scan"] = lambda: build(
            partial(associative_frames, readout=readout), x, spectrum
        )
    return Comparison(
        name=f"spectral {readout} {shape} {direction}", contenders=contenders, wanted=1 / WANTED.get(case, 1.5),
        judged="native", flops=flops(shape, readout, direction), **_bytes(shape, readout, direction),
    )  # fmt: skip


def _bytes(shape, readout, direction) -> dict[str, Any]:
    if readout == "all":
        return traffic(shape, direction)
    size = 4 * math.prod(shape)
    return {"inputs": size, "traffic": size * (1 if direction == "forward" else 2)}


def _in_torch(readout, shape, direction) -> Comparison:
    from cssm.torch.bench import contenders

    makers = contenders.spectral_loop(shape, direction, readout)
    return Comparison(
        name=f"spectral {readout} {shape} {direction}", framework="torch", contenders=makers, wanted=1 / 2.5,
        flops=flops(shape, readout, direction), **_bytes(shape, readout, direction),
    )  # fmt: skip


@SWEEP_BENCHES.register("spectral_cpu")
def spectral_cpu_sweep() -> Iterator[Comparison]:
    """Forward over H = W: without and with the compiled kernel, and SciPy and PyTorch's transforms there and back."""
    for side in (8, 16, 24, 32, 48, 64, 96, 128):
        shape = (1, max(1, 2**18 // side**2), side, side, 16)
        x, spectrum = clip_and_spectrum(shape)
        contenders = {
            "without": lambda x=x, k=spectrum: forward(partial(scanned, readout="all", implementation="stream"), x, k),
            "native": lambda x=x, k=spectrum: forward(partial(scanned, readout="all", implementation="native"), x, k),
            "scipy, transforms alone": lambda x=x: partial(_scipy, np.asarray(x)),
        }
        if has_torch():
            from cssm.torch.bench.contenders import there_and_back

            contenders["torch, transforms alone"] = lambda x=x: partial(there_and_back, np.array(x))
        yield Comparison(
            name=f"spectral {shape} forward", contenders=contenders, same_result=False, sweep="spectral_cpu",
            axis="H", value=side, **traffic(shape, "forward"),
        )  # fmt: skip


def _scipy(x: np.ndarray) -> np.ndarray:
    from scipy import fft

    spectra = fft.rfft2(x, axes=(2, 3), workers=-1)
    return np.asarray(fft.irfft2(spectra, s=x.shape[2:4], axes=(2, 3), workers=-1))
