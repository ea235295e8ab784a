"""cssm inspect: what a run has learned and what it costs."""

import dataclasses
from pathlib import Path

from cssm.core.errors import UsageError
from cssm.core.files import check_output

from .common import SavedRun, parse, prepare_process, refuse_tracker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(SavedRun):
    output: Path | None = None
    """Where the gain plot goes; default RUN/gains.png."""


def _count(value: int | float | None) -> str:
    return "not reported" if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


SAVED = """Spectral radius, memory, parameters and cost of every layer of a run; draws the gains.

`cssm inspect --model NAME` says what a registered model is made of."""
ROWS = (
    ("parameters", "parameters", _count),
    ("flops_per_frame", "FLOPs per frame", _count),
    ("bytes_per_frame", "bytes per frame", _count),
    ("state_bytes", "state bytes", _count),
    ("state_bound", "bound on the state", _number),
    ("spectral_radius", "spectral radius", _number),
    ("horizon", "horizon (frames)", _number),
    ("median_horizon", "horizon of the median mode", _number),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFlags:
    model: str
    """Registered model; see `cssm list models`."""
    grid: tuple[int, int] | None = None
    """(H, W) of the frames in pixels; default: those of the configuration."""


def main(argv: list[str]) -> int:
    if any(word.partition("=")[0] == "--model" for word in argv):
        return _model(parse(ModelFlags, argv, "inspect", "What a registered model is made of; nothing is allocated."))
    flags = parse(Flags, argv, "inspect", SAVED)
    path = check_output(flags.output or flags.run / "gains.png", ".png", "--output")
    prepare_process()
    from rich.console import Console
    from rich.table import Table

    from cssm.recipes import load_run
    from cssm.viz.inspect import draw_gains, inspect_layer

    model = load_run(flags.run, flags.checkpoint)[1]
    refuse_tracker(model, flags.run)
    places = model.layers()
    if not places:
        raise UsageError(f"{type(model).__name__} names no layers: there is nothing to inspect")
    layers = [inspect_layer(place.name, place.mixer, place.grid, place.channels) for place in places]
    table = Table("", *(layer.name for layer in layers), title=str(flags.run))
    table.add_row("grid, channels", *(f"{p.grid[0]}x{p.grid[1]}, {p.channels}" for p in places))
    for field, title, show in ROWS:
        table.add_row(title, *(show(getattr(layer, field)) for layer in layers))
    Console().print(table)
    print("bound on the state: what no entry of it ever exceeds while the mixer's input stays within 1 in modulus.")
    print("spectral radius: largest gain per frame. horizon: frames until the slowest mode has decayed to 1/1000.")
    print("FLOPs and bytes: XLA's own count for one frame of one video.")
    print(f"gains: {path}" if draw_gains(places, path) else "no layer has a fixed gain to draw")
    return 0


def _model(flags: ModelFlags) -> int:
    prepare_process()
    from flax import nnx
    from rich.console import Console
    from rich.table import Table

    from cssm.models import MODELS
    from cssm.viz.models import forward_cost, model_facts, model_parts

    config = MODELS[flags.model]
    facts = model_facts(flags.model, cost=False)
    model = nnx.eval_shape(lambda: config.make(nnx.Rngs(0)))
    grid = flags.grid or model.grid
    table = Table("part", "mixer", "gives", "parameters", title=f"{flags.model}: {facts.architecture}")
    table.columns[3].justify = "right"
    for part in model_parts(model, grid):
        table.add_row(part.name, part.mixer, part.shape, f"{part.parameters:,}")
    Console().print(table)
    cost = forward_cost(model, grid)
    flops = "not counted" if cost["flops"] is None else f"{cost['flops'] / 1e9:.3g} GFLOPs"
    note = ", a loop over steps counted once" if cost["looped"] else ""
    print(f"{facts.parameters:,} parameters, {4 * facts.parameters / 2**20:,.0f} MiB in float32.")
    print(f"One image of {grid[0]} x {grid[1]} pixels: {flops} (XLA's count{note}). Streams: {facts.streams}.")
    print(f"In timm: {facts.timm}." if facts.timm else "timm has no such model.")
    return 0
