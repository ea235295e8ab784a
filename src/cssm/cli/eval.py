"""cssm eval: the figures of a run's best checkpoint, with the baseline beside them."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

from cssm.core.errors import UsageError
from cssm.core.files import replacing

from .common import SavedRun, parse, prepare_process


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
    prepare_process()
    from cssm.recipes import baseline_of, load_run, sums_of
    from cssm.viz.figure import figure

    if flags.batch_size is not None and flags.batch_size < 1:
        raise UsageError(f"--batch-size is {flags.batch_size}: give at least one row")
    run, model = load_run(flags.run, flags.checkpoint, flags.data_dir)
    sums = sums_of(run, model, flags.split, flags.batch_size)
    figures, details = run.task.summarise(sums), run.task.details(sums)
    baseline = baseline_of(run, flags.split)
    beside = {} if baseline is None else {baseline.name: baseline.value}
    record = {"split": flags.split, "checkpoint": flags.checkpoint, **figures, **beside}
    with replacing(flags.run / f"eval-{flags.split}.json") as new:
        new.write_text(json.dumps(record | details) + "\n")
    print(f"{flags.split} {run.task.describe(figures)}")
    if baseline is not None:
        print(f"{baseline.title} {baseline}")
    if details:
        print(run.task.show_details(details))
        path = flags.run / f"eval-{flags.split}.png"
        with figure(path) as empty:
            run.task.draw_details(empty, details)
        print(f"confusion: {path}")
    print(json.dumps(record))
    return 0
