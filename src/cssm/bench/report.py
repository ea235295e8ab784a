"""Benchmark results as a table and as JSON that says on what they were measured."""

import dataclasses
import json
import platform
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from .harness import Timing


def show(timings: list[Timing], console: Console) -> None:
    table = Table("comparison", "contender", "compile", "median", "ratio", "quartiles", "wanted")
    for t in timings:
        ok = t.wanted is None or t.ratio <= t.wanted
        wanted = "" if t.wanted is None else f"[{'green' if ok else 'red'}]<= {t.wanted}[/]"
        table.add_row(
            t.comparison, t.contender, f"{t.compile:.2f} s", f"{t.median * 1e3:.2f} ms", f"{t.ratio:.2f}",
            f"{t.ratio_low:.2f}-{t.ratio_high:.2f}", wanted,
        )  # fmt: skip
    console.print(table)


def save(timings: list[Timing], path: Path, revision: str | None) -> None:
    device = jax.devices()[0]
    record = {
        "device": device.device_kind,
        "platform": device.platform,
        "cores": len(jax.devices()),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "revision": revision,
        "timings": [dataclasses.asdict(t) for t in timings],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")
