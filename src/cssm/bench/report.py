"""Benchmark results as a table and as JSON that says on what they were measured."""

import dataclasses
import itertools
import json
import os
import platform
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from .harness import Timing


def show(timings: list[Timing], console: Console) -> None:
    """One table per comparison, the baseline first."""
    for name, group in itertools.groupby(timings, lambda t: t.comparison):
        table = Table(title=name, title_justify="left")
        for column in ("", "compile", "median", "ratio", "quartiles", "wanted"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for t in group:
            color = "green" if t.wanted is None or t.ratio <= t.wanted else "red"
            wanted = "" if t.wanted is None else f"[{color}]<= {t.wanted}[/]"
            times = f"{t.compile:.2f} s", f"{t.median * 1e3:.2f} ms"
            table.add_row(t.contender, *times, f"{t.ratio:.2f}", f"{t.ratio_low:.2f}-{t.ratio_high:.2f}", wanted)
        console.print(table)


def save(timings: list[Timing], path: Path, revision: str | None) -> None:
    device = jax.devices()[0]
    record = {
        "device": device.device_kind,
        "platform": device.platform,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "revision": revision,
        "timings": [dataclasses.asdict(t) for t in timings],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
