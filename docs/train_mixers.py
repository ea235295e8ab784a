"""Train every recurrent mixer with the same budget on the demo's data, and write the table of docs/results.md.

    python docs/train_mixers.py                       # two hours on a CPU; runs that are done are kept
    python docs/train_mixers.py --only gated no_fft   # some of them, in another shell

A run is `cssm train demo --cssm NAME --embed-dim 16 --batch-size 32 --steps 600 --eval-every 300 --warmup-steps 50`,
with the options below. The table is written once all are there; step times are ratios of interleaved rounds.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from cssm.bench import run as measure
from cssm.bench.frameworks import jitted
from cssm.bench.harness import Comparison
from cssm.core.errors import UsageError
from cssm.data import loader
from cssm.nn import MIXERS, Mixer, list_mixers
from cssm.nn.mixer import options_of
from cssm.recipes import RECIPES, Run, baseline_of, execute, load_run, load_saved
from cssm.train import evaluate

RESULTS = Path(__file__).parent / "results.md"
BEGIN, END = "<!-- mixers: written by `python docs/train_mixers.py` -->\n", "<!-- end of mixers -->"
UNIT = "no_gate"
SAME = {"realspace_par": "realspace_seq"}  # the same function of the same parameters, slower
OPTIONS = {"memory": 8.0, "init_scale": 0.1}  # of the demo, where a mixer has them
HEAD = [
    "| mixer | validation | test | step time / `no_gate` | parameters |",
    "|---|---:|---:|---:|---:|",
]


def recurrent() -> list[str]:
    return [name for name in list_mixers() if issubclass(MIXERS[name], Mixer) and name not in SAME]


def run_of(name: str) -> Run:
    """The demo with this mixer, narrower and shorter."""
    demo = RECIPES["demo"]()
    options = {option: value for option, value in OPTIONS.items() if option in options_of(name)}
    model = dataclasses.replace(demo.model, mixer=name, mixer_options=options, embed_dim=16)
    budget = dataclasses.replace(demo.train, steps=600, batch_size=32, eval_every=300, warmup_steps=50)
    return dataclasses.replace(demo, model=model, train=budget)


def trained(name: str, folder: Path) -> None:
    """Train, or go on with what was begun; a run of another configuration is an error."""
    run = run_of(name)
    if (folder / "config.json").exists() and load_saved(folder) != run:
        raise UsageError(f"{folder} holds a run of another configuration: choose another --out")
    if not (folder / "summary.json").exists():
        execute(run, folder, resume=(folder / "config.json").exists())


def accuracies(folder: Path) -> tuple[float, float]:
    """Of the best checkpoint on the validation split, which picked it, and on the test split."""
    run, model = load_run(folder)
    figures = evaluate(model, run.task, loader(run.source("test"), batch_size=run.train.batch_size))
    return json.loads((folder / "summary.json").read_text())["val_accuracy"], figures["accuracy"]


def cell(accuracy: float, count: int) -> str:
    return f"{accuracy:.3f} ± {(accuracy * (1 - accuracy) / count) ** 0.5:.3f}".replace("0.", ".")


def gradient_step(name: str) -> Callable:
    """A maker of the loss of a batch and its gradient."""
    run = run_of(name)
    example = run.source("train").batch(np.arange(run.train.batch_size))
    batch = run.task.prepare({**example, "valid": np.ones(run.train.batch_size, bool)})

    def build():
        graph, params = nnx.split(run.build())
        return jitted(jax.value_and_grad(lambda p: run.task.loss(nnx.merge(graph, p), batch, None).value), params)

    return build


def measured(name: str, folder: Path, unit: Callable) -> dict:
    """Accuracies and step time; kept in the run's folder, so that an interrupted table goes on."""
    kept = folder / "table.json"
    if not kept.exists():
        print(f"{name}: test split and step time", flush=True)
        timing, (val, test) = None, accuracies(folder)
        if name != UNIT:
            contenders = {UNIT: unit, name: gradient_step(name)}
            comparison = Comparison(name=name, contenders=contenders, same_result=False)
            timing = dataclasses.asdict(measure(comparison, repeats=7, budget=10)[1])
        kept.write_text(json.dumps({"val": val, "test": test, "timing": timing}))
    return json.loads(kept.read_text())


def row(name: str, facts: dict) -> str:
    run, timing = run_of(name), facts["timing"]
    ratio = "1"
    if timing is not None:
        ratio = f"{timing['ratio']:.1f} ({timing['ratio_low']:.1f}-{timing['ratio_high']:.1f})"
    parameters = sum(p.size for p in jax.tree.leaves(nnx.state(run.build(), nnx.Param)))
    cells = cell(facts["val"], run.val_size or 0), cell(facts["test"], run.test_size or 0), ratio, f"{parameters:,}"
    return f"| `{name}` | {' | '.join(cells)} |"


def write(out: Path, names: list[str]) -> None:
    facts = {name: measured(name, out / name, gradient_step(UNIT)) for name in names}
    rows = [row(name, facts[name]) for name in sorted(names, key=lambda name: -facts[name]["test"])]
    rows.append(f"| markers only | | {baseline_of(run_of(UNIT), 'test')} | | |")
    before, rest = RESULTS.read_text().split(BEGIN)
    RESULTS.write_text(before + BEGIN + "\n".join(HEAD + rows) + "\n" + END + rest.split(END)[1])
    print(RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/mixers"))
    parser.add_argument("--only", nargs="+", choices=recurrent(), default=recurrent(), metavar="NAME")
    flags = parser.parse_args()
    for name in flags.only:
        print(name, flush=True)
        trained(name, flags.out / name)
    if all((flags.out / name / "summary.json").exists() for name in recurrent()):
        write(flags.out, recurrent())


if __name__ == "__main__":
    main()
