"""cssm eval: the figures of a run's best checkpoint, with the baseline beside them."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import tyro

from .common import enable_compilation_cache, parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    run: tyro.conf.Positional[Path]
    """Folder that `cssm train` wrote."""
    split: Literal["test", "val"] = "test"
    """The test split took no part in training or in the choice of the checkpoint."""
    batch_size: int = 128


def main(argv: list[str]) -> int:
    flags = parse(Flags, argv, "eval", "The figures of a run's best checkpoint on a split, beside the baseline.")
    enable_compilation_cache()
    from cssm.data import loader
    from cssm.recipes import baseline_of, load_run
    from cssm.train import evaluate

    run, model = load_run(flags.run)
    batches = loader(run.source(flags.split), batch_size=flags.batch_size)
    figures = evaluate(model, run.task, batches, compute_dtype=run.train.compute_dtype)
    baseline = baseline_of(run, flags.split)
    print(f"{flags.split} {run.task.describe(figures)}")
    beside = {}
    if baseline is not None:
        print(f"{baseline.title} {baseline}")
        beside = {baseline.name: baseline.value}
    record = {"split": flags.split, **figures, **beside}
    (flags.run / f"eval-{flags.split}.json").write_text(json.dumps(record) + "\n")
    print(json.dumps(record))
    return 0
