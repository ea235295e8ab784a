"""The table of all mixers: what each is and what it costs, from the registry alone."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from cssm.core.typing import Grid
from cssm.nn.mixer import MIXERS, create_mixer

from .inspect import step_cost

CHANNELS, GRID = 32, (32, 32)
NOTE = (
    f"For {CHANNELS} channels and one frame of {GRID[0]} x {GRID[1]} pixels of one video. LTI: the state decays by "
    "fixed gains, one a mode (that of `s4` by a fixed dense matrix). dt: takes irregular time. Grid-free: no parameter "
    "depends on the grid; a table is interpolated to any other grid. FLOPs and bytes: XLA's own count of `step` (of a "
    "clip of one frame for mixers without), to two digits; a loop counts once, hence >=."
)
COLUMNS = ("mixer", "causal", "recurrent", "LTI", "dt", "grid-free", "parameters", "state bytes", "FLOPs", "bytes")
STORED = Path(__file__).with_name("mixers.json")
EXACT = 8  # columns that do not depend on XLA's version


@dataclass(frozen=True, kw_only=True)
class MixerFacts:
    """One row. flops and bytes are None where they were not asked for; looped: XLA has counted a loop's body once."""

    name: str
    what: str
    causal: bool
    recurrent: bool
    time_invariant: bool
    takes_dt: bool
    grid_free: bool
    parameters: int
    state_bytes: int
    flops: float | None = None
    bytes: float | None = None
    looped: bool = False

    def cells(self) -> list[str]:
        """The row as text, in the order of COLUMNS."""
        flags = (self.causal, self.recurrent, self.time_invariant, self.takes_dt)
        cells = [self.name, *("yes" if flag else "no" for flag in flags), "yes" if self.grid_free else "a table"]
        cells += [f"{self.parameters:,}", f"{self.state_bytes:,}"]
        more = ">= " if self.looped else ""
        return cells + [more + _short(value) if value is not None else "-" for value in (self.flops, self.bytes)]


def mixer_facts(name: str, *, cost: bool = True, channels: int = CHANNELS, grid: Grid = GRID) -> MixerFacts:
    """Describe one mixer with its default options; cost=False compiles nothing.

    >>> mixer_facts("no_gate", cost=False).parameters  # 32 kernels of 11 x 11 taps, a dense layer
    4928
    """
    mixer, cls = _abstract(name, channels, grid), MIXERS[name]
    frame = jax.ShapeDtypeStruct((1, *grid, channels), jnp.float32)
    graph, params = nnx.split(mixer)
    if cls.recurrent:
        state = jax.eval_shape(lambda p: nnx.merge(graph, p).init_state(1, grid), params)
        run, args = (lambda p, s, x: nnx.merge(graph, p).step(s, x)), (params, state, frame)
    else:
        state, run, args = (), (lambda p, x: nnx.merge(graph, p)(x[:, None])), (params, frame)
    measured = {}
    if cost:
        counted = step_cost(run, *args)
        program = str(jax.make_jaxpr(run)(*args))
        looped = "scan[" in program or "while[" in program
        measured = {"flops": counted.get("flops"), "bytes": counted.get("bytes accessed"), "looped": looped}
    return MixerFacts(
        name=name, what=(cls.__doc__ or "").strip().splitlines()[0], causal=cls.causal, recurrent=cls.recurrent,
        time_invariant=cls.time_invariant, takes_dt=cls.takes_dt, grid_free=not cls.learns_grid,
        parameters=sum(p.size for p in jax.tree.leaves(nnx.state(mixer, nnx.Param))),
        state_bytes=sum(v.size * v.dtype.itemsize for v in jax.tree.leaves(state)), **measured,
    )  # fmt: skip


def stored_facts() -> list[MixerFacts]:
    """The rows of all mixers as they were measured when the package was made: `make docs` writes mixers.json."""
    rows = json.loads(STORED.read_text())["mixers"]
    return [MixerFacts(**row) for row in rows]


def store_facts(rows: list[MixerFacts]) -> Path:
    """Write the rows for `stored_facts`."""
    about = {"jax": jax.__version__, "channels": CHANNELS, "grid": GRID, "mixers": [asdict(row) for row in rows]}
    STORED.write_text(json.dumps(about, indent=1) + "\n")
    return STORED


def markdown_table(rows: list[MixerFacts]) -> str:
    """The rows as a Markdown table, with the note under it."""
    lines = [COLUMNS, tuple("---:" if i > 5 else "---" for i in range(len(COLUMNS)))]
    lines += [(f"`{row.name}`", *row.cells()[1:]) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{NOTE}\n"


def _abstract(name, channels, grid):
    """The mixer with shapes in place of numbers."""
    return nnx.eval_shape(lambda: create_mixer(name, channels=channels, grid=grid, rngs=nnx.Rngs(0)))


def _short(value: float) -> str:
    """Two digits and a unit.

    >>> _short(1234567.0), _short(96.2)
    ('1.2 M', '96')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.995 * size:
            value = float(f"{value / size:.2g}")
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{value:.0f}"
