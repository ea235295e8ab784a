"""Benchmark results as tables and as JSON that says on what they were measured."""

import dataclasses
import itertools
import json
import os
import platform
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .frameworks import framework
from .harness import Timing, copy_bandwidth

COLUMNS = ("", "compile", "median (quartiles)", "ratio (quartiles)", "faster", "memory", "of copy", "of peak", "wanted")


def show(timings: list[Timing], console: Console) -> None:
    """One table per comparison, the baseline first. "of copy": time of a copy of the least traffic over the median; "of
    peak": time of the additions and multiplications, at what one core can do, over the median."""
    for (name, side), group in itertools.groupby(timings, lambda t: (t.comparison, t.framework)):
        table = Table(title=f"{name}  ({side})", title_justify="left")
        for column in COLUMNS:
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for t in group:
            table.add_row(*_cells(t))
        console.print(table)


def _cells(t: Timing) -> list[str]:
    unit, scale = ("s", 1) if t.median >= 1 else ("ms", 1e3)
    return [
        t.contender,
        f"{t.compile:.1f} s",
        f"{_three(scale * t.median)} ({_three(scale * t.low)}-{_three(scale * t.high)}) {unit}",
        f"{_three(t.ratio)} ({_three(t.ratio_low)}-{_three(t.ratio_high)})",
        f"{_three(1 / t.ratio)}x",
        "" if t.peak is None else f"{t.peak / 1e6:,.0f} MB",
        "" if t.limit is None else f"{t.limit / t.median:.0%}",
        "" if t.compute is None else f"{t.compute / t.median:.0%}",
        "" if t.wanted is None else f"[{'green' if t.met else 'red'}]{t.wanted}[/]",
    ]


def _three(value: float) -> str:
    """Three digits: 0.0123, 1.23, 1,235."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def record(timings: list[Timing], revision: str | None) -> dict[str, Any]:
    """Everything measured, with device, versions and commit."""
    sides = sorted({t.framework for t in timings})
    facts = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    for side in sides:
        facts |= framework(side).describe() | {f"{side}_copy_bytes_per_second": copy_bandwidth(side)}
    return facts | {"revision": revision, "timings": [dataclasses.asdict(t) for t in timings]}


def save(measured: dict[str, Any], path: Path) -> None:
    """Write the record as JSON, through a temporary file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(measured, indent=2) + "\n")
    partial.replace(path)
