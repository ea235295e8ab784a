"""The table of all models: what each is and what it costs, from the registry alone; and one model, part by part."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Grid
from cssm.models import MODELS
from cssm.ops.spectral.native_call import without_compiled_kernels

SIDE = 224
COLUMNS = ("model", "architecture", "mixer", "parameters", f"GFLOPs at {SIDE}", "streams", "in timm")
NOTE = (
    "Parameters: with the classes of the name (1,000, `simple` 2). GFLOPs: XLA's own count of a forward pass of one "
    f"image of {SIDE} x {SIDE} pixels, additions and multiplications, at the default number of steps; a loop over them "
    "counts once, hence >=. Streams: frame by frame, from a carried state; attention and depthwise convolutions have "
    "none, and take each frame alone. In timm: weights go both ways (`load_timm`, `save_timm`)."
)
STORED = Path(__file__).with_name("models.json")
TIMM = ("_patch16_224", "convnext_")  # of names that timm has too


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One row. flops is None where it was not asked for."""

    name: str
    architecture: str
    mixer: str
    parameters: int
    streams: str
    timm: str
    flops: float | None = None
    looped: bool = False
    """XLA has counted a loop's body once."""

    def cells(self) -> list[str]:
        """The row as text, in the order of COLUMNS."""
        flops = "-" if self.flops is None else f"{'>= ' if self.looped else ''}{self.flops / 1e9:.3g}"
        return [self.name, self.architecture, self.mixer, f"{self.parameters:,}", flops, self.streams, self.timm]


def model_facts(name: str, *, cost: bool = True) -> ModelFacts:
    """Describe one registered model; nothing of its size is allocated. cost=False traces no forward pass.

    >>> facts = model_facts("convnext_tiny", cost=False)
    >>> facts.parameters, facts.streams, facts.timm
    (28589128, 'each frame alone', 'convnext_tiny')
    """
    config: Any = MODELS[name]
    model = nnx.eval_shape(lambda: config.make(nnx.Rngs(0)))
    mixers = sorted({layer.name.partition(": ")[2] for layer in model.layers()})
    return ModelFacts(
        name=name, architecture=type(model).__name__, mixer=", ".join(mixers), parameters=parameters_of(model),
        streams=_streams(model), timm=_timm(name), **(forward_cost(model) if cost else {}),
    )  # fmt: skip


def parameters_of(module: Any) -> int:
    """How many numbers its parameters are."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def forward_cost(model: Any, grid: Grid = (SIDE, SIDE)) -> dict[str, Any]:
    """XLA's count for one image of (H, W) pixels: {"flops": number, "looped": whether a loop counts once}."""
    graph, params = nnx.split(model)
    image = jax.ShapeDtypeStruct((1, *grid, model.stem.in_channels), jnp.float32)
    with without_compiled_kernels():
        traced = jax.jit(lambda params, x: nnx.merge(graph, params)(x)).trace(params, image)
    program, counted = str(traced.jaxpr), traced.lower().cost_analysis()
    flops: Any = (counted or {}).get("flops")
    return {"flops": flops, "looped": "scan[" in program or "while[" in program}


@dataclass(frozen=True, kw_only=True)
class Part:
    """The stem, the head, or one block of a model: its name, its mixer, the grid and channels it gives, parameters."""

    name: str
    mixer: str
    shape: str
    parameters: int


def model_parts(model: Any, grid: Grid) -> list[Part]:
    """What a host is made of, for frames of (H, W) pixels."""
    shown = lambda grid, channels: f"{grid[0]} x {grid[1]} x {channels}"  # noqa: E731
    places = model.layers(grid)
    first = model.stem.grid(grid)
    count = parameters_of(model.stem)
    parts = [Part(name="stem", mixer="", shape=shown(first, _arriving(model)), parameters=count)]
    for i, (block, place) in enumerate(zip(model.stack.blocks, places, strict=True)):
        shape = shown(place.grid, place.channels)
        parts.append(Part(name=f"block {i}", mixer=block.mixer_name, shape=shape, parameters=parameters_of(block)))
    return [*parts, Part(name="head", mixer="", shape=f"{model.head.channels}", parameters=parameters_of(model.head))]


def _arriving(model) -> int:
    """Channels after the stem."""
    first = model.stack.blocks[0]
    return first.channels if first.downsample is None else first.downsample.conv.in_features


def _streams(model) -> str:
    try:
        jax.eval_shape(lambda: model.init_state(1, (SIDE, SIDE)))
    except UsageError:
        return "no"
    return "yes" if any(layer.mixer.recurrent for layer in model.layers()) else "each frame alone"


def _timm(name: str) -> str:
    """The name that timm has for the same configuration."""
    for other in MODELS.names():
        if any(part in other for part in TIMM) and MODELS[other] == MODELS[name]:
            return other
    return ""


def stored_models() -> list[ModelFacts]:
    """The rows of all models as they were counted when the package was made: `make docs` writes models.json."""
    return [ModelFacts(**row) for row in json.loads(STORED.read_text())["models"]]


def store_models(rows: list[ModelFacts]) -> Path:
    """Write the rows for `stored_models`."""
    about = {"jax": jax.__version__, "side": SIDE, "models": [asdict(row) for row in rows]}
    STORED.write_text(json.dumps(about, indent=1) + "\n")
    return STORED


def markdown_models(rows: list[ModelFacts]) -> str:
    """The rows as a Markdown table, with the note under it."""
    lines = [COLUMNS, ("---", "---", "---", "---:", "---:", "---", "---")]
    lines += [(f"`{row.name}`", *row.cells()[1:]) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{NOTE}\n"
