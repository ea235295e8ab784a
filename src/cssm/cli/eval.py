"""cssm eval: the figures of a run's best checkpoint, with the baseline beside them."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from cssm.core.errors import UsageError
from cssm.core.files import replacing

from .common import SavedRun, enable_compilation_cache, parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(SavedRun):
    split: Literal["test", "val"] = "test"
    """The test split took no part in training or in the choice of the checkpoint."""
    batch_size: int | None = None
    """Rows at a time; None: as in training. Halved when memory runs out."""
    data_dir: Path | None = None
    """Where the run's files are, if they have moved."""


def main(argv: list[str]) -> int:
    flags = parse(Flags, argv, "eval", "The figures of a run's best checkpoint on a split, beside the baseline.")
    enable_compilation_cache()
    from cssm.recipes import baseline_of, figures_of, load_run

    if flags.batch_size is not None and flags.batch_size < 1:
        raise UsageError(f"--batch-size is {flags.batch_size}: give at least one row")
    run, model = load_run(flags.run, flags.checkpoint, flags.data_dir)
    figures = figures_of(run, model, flags.split, flags.batch_size)
    baseline = baseline_of(run, flags.split)
    beside = {} if baseline is None else {baseline.name: baseline.value}
    record = {"split": flags.split, "checkpoint": flags.checkpoint, **figures, **beside}
    with replacing(flags.run / f"eval-{flags.split}.json") as new:
        new.write_text(json.dumps(record) + "\n")
    print(f"{flags.split} {run.task.describe(figures)}")
    if baseline is not None:
        print(f"{baseline.title} {baseline}")
    print(json.dumps(record))
    return 0
