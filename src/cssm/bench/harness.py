"""Interleaved comparison of callables in one process: medians, spreads and their ratio.

Absolute times on a shared machine are noise; a ratio of interleaved runs is not. Nothing is timed before its result
has been compared with the baseline's.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from cssm.core.errors import CssmError


class Incorrect(CssmError):
    """A contender whose result differs from the baseline's: it is not timed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Callables without arguments that are timed against the first one, the baseline.

    wanted: the largest acceptable ratio contender / baseline, or None. same_result: compare the outputs first.
    """

    name: str
    contenders: Mapping[str, Callable[[], Any]]
    same_result: bool = True
    wanted: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds. ratio: median over the rounds of contender / baseline, with its quartiles."""

    comparison: str
    contender: str
    compile: float
    median: float
    ratio: float
    ratio_low: float
    ratio_high: float
    wanted: float | None


def run(comparison: Comparison, *, repeats: int = 15, tolerance: float = 1e-4) -> list[Timing]:
    """Compile, check, then time all contenders round by round.

    Raises:
      Incorrect: results differ from the baseline's by more than `tolerance` in relative RMS.
    """
    functions = dict(comparison.contenders)
    compile_seconds, results = {}, {}
    for name, function in functions.items():
        start = time.perf_counter()
        results[name] = jax.block_until_ready(function())
        compile_seconds[name] = time.perf_counter() - start
    if comparison.same_result:
        baseline = next(iter(results))
        for name, result in results.items():
            _check(comparison.name, name, result, results[baseline], tolerance)
    seconds = _interleave(functions, repeats)
    return [_timing(comparison, name, compile_seconds[name], seconds) for name in functions]


def _check(comparison, name, result, expected, tolerance):
    for got, want in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        got, want = np.asarray(got), np.asarray(want)
        error = np.sqrt(np.mean(np.abs(got - want) ** 2)) / (np.sqrt(np.mean(np.abs(want) ** 2)) + 1e-30)
        if not error < tolerance:
            raise Incorrect(f"{comparison}: {name} differs from the baseline by {error:.1e} relative RMS; not timed")


def _interleave(functions, repeats):
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _timing(comparison, name, compile_seconds, seconds):
    baseline = seconds[next(iter(seconds))]
    ratios = sorted(mine / other for mine, other in zip(seconds[name], baseline, strict=True))
    return Timing(
        comparison=comparison.name,
        contender=name,
        compile=compile_seconds,
        median=statistics.median(seconds[name]),
        ratio=statistics.median(ratios),
        ratio_low=float(np.quantile(ratios, 0.25)),
        ratio_high=float(np.quantile(ratios, 0.75)),
        wanted=comparison.wanted if name != next(iter(seconds)) else None,
    )
