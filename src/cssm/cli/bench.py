"""cssm bench: ratios of interleaved runs, checked before they are timed."""

import dataclasses
from pathlib import Path

from cssm.core.errors import UsageError

from .common import parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    op: tuple[str, ...] = ()
    """Benchmarks to run: see `cssm list benchmarks`."""
    all: bool = False
    """Run every benchmark."""
    repeats: int = 15
    """Interleaved rounds; the median and quartiles of the ratio are shown."""
    output: Path | None = None
    """Also write the results as JSON."""
    device: str | None = None
    """cpu, gpu or tpu; default: what JAX picks."""


def main(argv: list[str]) -> int:
    flags = parse(
        Flags, argv, "bench", "Interleaved benchmarks: ratio of each contender to the baseline in one process."
    )
    if bool(flags.op) == flags.all:
        raise UsageError("cssm bench: give --op NAME [NAME ...] or --all")
    if flags.repeats < 1:
        raise UsageError(f"--repeats is {flags.repeats}: give at least 1")
    if flags.output:
        flags.output.parent.mkdir(parents=True, exist_ok=True)
        flags.output.touch()  # a path that cannot be written is told before the timing
    import jax
    from rich.console import Console
    from rich.progress import track

    from cssm.bench import BENCHES, run, save, show
    from cssm.train.environment import git_revision

    if flags.device:
        jax.config.update("jax_platforms", flags.device)
        _require_device(jax, flags.device)
    comparisons = [c for name in (BENCHES.names() if flags.all else flags.op) for c in BENCHES[name]()]
    console = Console(stderr=True)
    results = [t for c in track(comparisons, "timing", console=console) for t in run(c, repeats=flags.repeats)]
    show(results, Console())
    if flags.output:
        save(results, flags.output, git_revision())
        print(f"wrote {flags.output}")
    return 0


def _require_device(jax, name: str) -> None:
    try:
        jax.devices()
    except RuntimeError as error:
        raise UsageError(f"--device {name}: JAX has no such device here ({str(error).splitlines()[0]})") from None
