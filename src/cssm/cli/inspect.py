"""cssm inspect: what a run has learned and what it costs."""

import dataclasses
from pathlib import Path

import tyro

from .common import enable_compilation_cache, parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    run: tyro.conf.Positional[Path]
    """Folder that `cssm train` wrote."""
    output: Path | None = None
    """Where the gain plot goes; default RUN/gains.png."""


def main(argv: list[str]) -> int:
    flags = parse(
        kind, argv, "inspect", "Spectral radius, memory, parameters and cost of every layer; draws the gains."
    )
    enable_compilation_cache()
    from rich.console import Console
    from rich.table import Table

    from cssm.recipes import load_run
    from cssm.viz.inspect import draw_gains, inspect_layer

    run, model = load_run(flags.run)
    size = -(-run.model.image_size // model.stem.stride)
    columns = (
        "layer",
        "parameters",
        "FLOPs/frame",
        "bytes/frame",
        "state bytes",
        "spectral radius",
        "horizon",
        "median",
    )
    table = Table(*columns, title=f"{flags.run}: {run.model.mixer} on {size}x{size}, {run.model.embed_dim} channels")
    for i, mixer in enumerate(model.mixers):
        layer = inspect_layer(f"{i + 1} {run.model.mixer}", mixer, (size, size), run.model.embed_dim)
        table.add_row(
            layer.name, f"{layer.parameters:,}", _count(layer.flops_per_frame), _count(layer.bytes_per_frame),
            f"{layer.state_bytes:,}", _number(layer.spectral_radius), _number(layer.horizon),
            _number(layer.median_horizon),
        )  # fmt: skip
    Console().print(table)
    print("spectral radius: largest gain per frame. horizon: frames until the slowest mode has decayed to 1/1000;")
    print("median: the same of the median mode. FLOPs and bytes: XLA's own count for one frame of one video.")
    path = flags.output or flags.run / "gains.png"
    print(f"gains: {path}" if draw_gains(model.mixers, (size, size), path) else "no layer has a fixed gain to draw")
    return 0


def _count(value: float | None) -> str:
    return "not reported" if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
