"""cssm bench: ratios of interleaved runs, checked before they are timed."""

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Literal

from cssm.core.errors import UsageError

from .common import parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    op: tuple[str, ...] = ()
    """Operators to time, such as decay_scan or spectral: see `cssm list benchmarks`."""
    model: tuple[str, ...] = ()
    """Whole models to time, such as simple."""
    sweep: tuple[str, ...] = ()
    """Curves over T, H and C, such as spectral, or scaling (time against the number of frames); drawn as PNG."""
    all: bool = False
    """Every operator, model and sweep."""
    framework: Literal["jax", "torch", "both"] = "both"
    """Leave out one side. PyTorch is timed where it is installed."""
    repeats: int = 15
    """Interleaved rounds; medians and quartiles are shown."""
    budget: float = 60.0
    """Seconds per comparison after which 5 rounds are enough."""
    output: Path = Path("runs/bench")
    """Folder for bench.json and the pictures of the sweeps."""
    device: str | None = None
    """cpu, gpu or tpu; default: what JAX picks."""


def main(argv: list[str]) -> int:
    flags = parse(
        Flags, argv, "bench", "Interleaved benchmarks: ratio of each contender to the baseline in one process."
    )
    _check(flags)
    import jax
    from rich.console import Console

    from cssm.shared.allocator import keep_freed_memory

    keep_freed_memory()

    if flags.device:
        jax.config.update("jax_platforms", flags.device)
        _require_device(jax, flags.device)
    from cssm import bench
    from cssm.train.environment import git_revision

    makers = _chosen(flags, bench)
    flags.output.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is told before the timing
    console, timings = Console(stderr=True), []
    tables = Console() if sys.stdout.isatty() else Console(width=130)
    for title, maker in makers:
        for comparison in maker():
            if flags.framework not in ("both", comparison.framework):
                continue
            with console.status(f"{title}: {comparison.name} ({comparison.framework})"):
                measured = bench.run(comparison, repeats=flags.repeats, budget=flags.budget)
            bench.show(measured, tables)
            timings += measured
            bench.save(bench.record(timings, git_revision()), flags.output / "bench.json")
    if not timings:
        raise UsageError(f"nothing of {', '.join(name for name, _ in makers)} runs in {flags.framework}")
    _draw(timings, flags.output)
    print(f"wrote {flags.output / 'bench.json'}")
    return 0


def _check(flags: Flags) -> None:
    named = flags.op or flags.model or flags.sweep
    if bool(named) == flags.all:
        raise UsageError("cssm bench: give --op NAME, --model NAME or --sweep NAME (several of each), or --all")
    if flags.repeats < 1:
        raise UsageError(f"--repeats is {flags.repeats}: give at least 1")
    if not flags.budget >= 0:
        raise UsageError(f"--budget is {flags.budget:g}: give seconds, 0 or more")


def _chosen(flags: Flags, bench):
    """(title, maker of comparisons) of everything asked for; an unknown name is told before anything runs."""
    if flags.framework == "torch" and not bench.has_torch():
        raise UsageError("--framework torch: PyTorch is not installed (pip install 'cssm[torch]')")
    chosen = []
    for registry, names in (
        (bench.OP_BENCHES, flags.op),
        (bench.MODEL_BENCHES, flags.model),
        (bench.SWEEP_BENCHES, flags.sweep),
    ):
        names = registry.names() if flags.all else names
        chosen += [(f"{registry.kind} {name}", registry[name]) for name in names]
    return chosen


def _draw(timings, folder: Path) -> None:
    """One picture per sweep."""
    from cssm.viz.bench import draw_sweep

    points = [t for t in timings if t.sweep is not None]
    for name, group in itertools.groupby(points, lambda t: t.sweep):
        path = folder / f"{name}.png"
        draw_sweep(list(group), path)
        print(f"drew {path}")


def _require_device(jax, name: str) -> None:
    try:
        jax.devices()
    except RuntimeError as error:
        raise UsageError(f"--device {name}: JAX has no such device here ({str(error).splitlines()[0]})") from None
