"""cssm predict: what a trained run says of pictures and clips of one's own."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from .common import SavedRun, parse, prepare_process, refuse_tracker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(SavedRun):
    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(required)")]
    """Pictures (.png, .jpg), clips (.npz, .npy, .mp4, .gif), or folders of them."""
    data_dir: Path | None = None
    """Where the run's files are, if they have moved."""
    json: bool = False
    """One line of JSON per file instead of bars."""


def main(argv: list[str]) -> int:
    flags = parse(
        Flags, argv, "predict", "What a trained model says of pictures and clips: its classes and how likely."
    )
    from cssm.core.errors import UsageError

    if not flags.paths:
        raise UsageError("cssm predict: name pictures, clips or folders of them after the run")
    prepare_process()
    from cssm.recipes import load_run, predict

    run, model = load_run(flags.run, flags.checkpoint, flags.data_dir)
    refuse_tracker(model, flags.run)
    for found in predict(run, model, flags.paths):
        line = json.dumps({"file": found.source, **found.reading}) if flags.json else f"{found.source}  {found.text}"
        print(line, flush=True)
    return 0
