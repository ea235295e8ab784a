"""Interleaved comparison of callables in one process: medians, spreads and their ratio.

Absolute times on a shared machine are noise; a ratio of interleaved runs is not. Nothing is timed before its result
has been compared with the baseline's.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from cssm.core.errors import CssmError

from .frameworks import Framework, framework
from .peak import peak_flops

COPY = 1 << 28  # bytes: far beyond any cache


class Incorrect(CssmError):
    """A contender whose result differs from the baseline's: it is not timed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Makers of callables without arguments that are timed against the first one, the baseline.

    contenders: name -> a function that builds (compiles) the callable. wanted: the largest acceptable ratio of a
    contender to the baseline; at_least: the smallest. judged: the contender that is meant, all when None.
    same_result: compare the outputs first, to `tolerance` in relative RMS. traffic: bytes that must be read and
    written, whatever the algorithm. inputs: bytes of the inputs, alive throughout. flops: additions and
    multiplications of the algorithm meant, for the share of what one CPU core can do. sweep, axis, value: where
    it stands on a curve.
    """

    name: str
    contenders: Mapping[str, Callable[[], Callable[[], Any]]]
    framework: str = "jax"
    same_result: bool = True
    tolerance: float = 1e-4
    wanted: float | None = None
    at_least: float | None = None
    judged: str | None = None
    traffic: int | None = None
    inputs: int | None = None
    flops: int | None = None
    sweep: str | None = None
    axis: str | None = None
    value: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds and bytes. ratio: median over the rounds of contender / baseline, with its quartiles.

    peak: inputs plus the rise of memory during one call. limit: seconds that a copy of `traffic` bytes takes here.
    compute: seconds that `flops` take one core at its measured peak. met: whether the wanted ratio was reached, None
    when none was named.
    """

    comparison: str
    framework: str
    contender: str
    compile: float
    median: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int
    peak: int | None
    limit: float | None
    compute: float | None
    wanted: str | None
    met: bool | None
    sweep: str | None = None
    axis: str | None = None
    value: int | None = None


def run(comparison: Comparison, *, repeats: int = 15, budget: float = 60.0) -> list[Timing]:
    """Compile, check, then time all contenders round by round; 5 rounds are enough once `budget` seconds are over.

    Raises:
      Incorrect: results differ from the baseline's by more than the comparison's tolerance in relative RMS.
    """
    side = framework(comparison.framework)
    functions, compile_seconds = _prepare(comparison, side)
    peaks = {name: side.peak_memory(function) for name, function in functions.items()}
    seconds = _interleave(functions, side, repeats, budget)
    return [_timing(comparison, name, compile_seconds[name], seconds, peaks[name]) for name in functions]


def _prepare(comparison, side):
    """The built callables, each checked against the first, and what building and the first call took."""
    functions, seconds, expected = {}, {}, None
    for name, build in comparison.contenders.items():
        start = time.perf_counter()
        functions[name] = build()
        result = functions[name]()
        side.wait(result)
        seconds[name] = time.perf_counter() - start
        if comparison.same_result:
            arrays = side.arrays(result)
            expected = arrays if expected is None else expected
            _check(comparison, name, arrays, expected)
    return functions, seconds


def _check(comparison, name, result, expected):
    if len(result) != len(expected):
        raise Incorrect(f"{comparison.name}: {name} returns {len(result)} arrays, the baseline {len(expected)}")
    for got, want in zip(result, expected, strict=True):
        error = np.inf
        if got.shape == want.shape:
            error = np.sqrt(np.mean(np.abs(got - want) ** 2)) / (np.sqrt(np.mean(np.abs(want) ** 2)) + 1e-30)
        if not error < comparison.tolerance:
            message = f"{comparison.name}: {name} differs from the baseline by {error:.1e} relative RMS; not timed"
            raise Incorrect(message)


def _interleave(functions, side: Framework, repeats, budget):
    seconds = {name: [] for name in functions}
    began = time.perf_counter()
    for i in range(repeats):
        if i >= 5 and time.perf_counter() - began > budget:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            side.wait(function())
            seconds[name].append(time.perf_counter() - start)
    return seconds


@cache
def copy_bandwidth(name: str) -> float:
    """Bytes per second that a copy of 256 MiB reads and writes, best of ten: the memory limit of this machine."""
    side = framework(name)
    copy = side.copy(COPY)
    side.wait(copy())
    return 2 * COPY / min(min(_interleave({"copy": copy}, side, 10, 60.0)["copy"]), 1e9)


def _timing(comparison, name, compile_seconds, seconds, rise):
    first = next(iter(seconds))
    ratios = sorted(mine / other for mine, other in zip(seconds[name], seconds[first], strict=True))
    ratio, low, high = statistics.median(ratios), *np.quantile(ratios, (0.25, 0.75)).tolist()
    times = np.quantile(seconds[name], (0.25, 0.75)).tolist()
    wanted, met = _verdict(comparison, name, ratio) if name != first else (None, None)
    traffic = comparison.traffic
    return Timing(
        comparison=comparison.name,
        framework=comparison.framework,
        contender=name,
        compile=compile_seconds,
        median=statistics.median(seconds[name]),
        low=times[0],
        high=times[1],
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        rounds=len(ratios),
        peak=None if rise is None else rise + (comparison.inputs or 0),
        limit=None if traffic is None else traffic / copy_bandwidth(comparison.framework),
        compute=None if comparison.flops is None else comparison.flops / peak_flops(),
        wanted=wanted,
        met=met,
        sweep=comparison.sweep,
        axis=comparison.axis,
        value=comparison.value,
    )


def _verdict(comparison, name, ratio) -> tuple[str | None, bool | None]:
    if comparison.judged not in (None, name):
        return None, None
    if comparison.wanted is not None:
        return f"<= {comparison.wanted:.3g}", ratio <= comparison.wanted
    if comparison.at_least is not None:
        return f">= {comparison.at_least:.3g}", ratio >= comparison.at_least
    return None, None
