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

COLUMNS = (
    "",
    "compile",
    "median",
    "quartiles",
    "ratio",
    "quartiles",
    "speed-up",
    "memory",
    "of the copy limit",
    "wanted",
)


def show(timings: list[Timing], console: Console) -> None:
    """One table per comparison, the baseline first."""
    for (name, side), group in itertools.groupby(timings, lambda t: (t.comparison, t.framework)):
        table = Table(title=f"{name}  ({side})", title_justify="left")
        for column in COLUMNS:
            table.add_column(column, justify="right" if column else "left", no_wrap=bool(not column), overflow="fold")
        for t in group:
            table.add_row(*_cells(t))
        console.print(table)


def _cells(t: Timing) -> list[str]:
    wanted = "" if t.wanted is None else f"[{'green' if t.met else 'red'}]{t.wanted}[/]"
    return [
        t.contender,
        f"{t.compile:.2f} s",
        _milliseconds(t.median),
        f"{_milliseconds(t.low)}-{_milliseconds(t.high)}",
        f"{t.ratio:.3g}",
        f"{t.ratio_low:.3g}-{t.ratio_high:.3g}",
        f"{1 / t.ratio:.3g}x",
        "" if t.peak is None else f"{t.peak / 1e6:,.0f} MB",
        "" if t.limit is None else f"{t.limit / t.median:.0%}",
        wanted,
    ]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


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
