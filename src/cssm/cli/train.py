"""cssm train: a recipe, any of its values overridden by flags."""

import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Literal

from cssm.core.errors import UsageError

from .common import enable_compilation_cache, parse
from .overrides import continued, flag_values, given_flags, overridden


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """Options of `cssm train`; the defaults shown are the recipe's."""

    arch: str
    """Model: see `cssm list models`."""
    cssm: str
    """Mixer: see `cssm list mixers`."""
    embed_dim: int
    """Channels."""
    depth: int
    """Mixer blocks."""
    seq_len: int
    """Frames: of a video, or repeats of a static image."""
    image_size: int
    """Height and width of the frames in pixels."""
    kernel_size: int | None
    """Taps of the mixer's kernel; None is the mixer's own default."""
    mixer_options: tuple[str, ...]
    """More options of the mixer: --mixer-options memory=8.0 boundary=zero. They replace the recipe's."""
    stem_mode: Literal["pathtracker", "default"]
    """pathtracker: one 1x1 convolution. default: 3x3 convolutions with pooling."""
    pos_embed: Literal["mrope", "none"]
    """mrope: rotary over time, height and width."""
    norm_type: Literal["global_layer", "global_layer_causal", "layer", "none"]
    """global_layer looks at the whole clip and cannot stream; the others can."""
    act: Literal["gelu", "softplus", "relu", "none"]
    """Activation after the stem and between blocks."""
    pool_type: Literal["max", "mean"]
    """Pooling over space."""
    frame_readout: Literal["last", "mean", "all"]
    """Frames that are read."""
    drop_path: float
    """Probability of skipping a block for a sample."""
    dataset: str
    """Data set: see `cssm list datasets`."""
    data_dir: Path | None
    """Folder of published or made files; None generates the data."""
    pathfinder_difficulty: int | None
    """Contour length of Pathfinder: 6, 9, 14, 20 or 25."""
    distractors: int | None
    """Distractor dots of PathTracker and FeatureTracker."""
    skip_corrupt: bool
    """Leave unreadable records of --data-dir out, counted, instead of stopping."""
    train_size: int | None
    """Training samples, an epoch."""
    val_size: int | None
    """Validation samples."""
    steps: int | None
    """Optimiser steps; give this or --epochs."""
    epochs: int | float | None
    """Passes over the training data; give this or --steps."""
    batch_size: int
    lr: float
    """Peak learning rate."""
    weight_decay: float
    """On Dense and convolution weights alone."""
    grad_clip: float
    """Largest global norm of the gradient."""
    warmup_steps: int
    """Linear warm-up; then cosine to 1% of the peak."""
    ema: float | None
    """Decay of the parameter average used for evaluation."""
    accumulate: int
    """Micro-batches an update is made of."""
    compute_dtype: Literal["float32", "bfloat16"]
    eval_every: int | float | None
    """Steps (or epochs, with --epochs) between evaluations."""
    label_smoothing: float
    normalization: Literal["imagenet", "unit", "symmetric", "none"]
    """How uint8 pixels become numbers."""
    logger: str
    """jsonl, with +tensorboard or +wandb."""
    seed: int
    """Of the initial parameters, the shuffle and drop-path."""
    out: Path | None = None
    """Run folder; the default is runs/RECIPE-DATE-TIME."""
    resume: bool = False
    """Continue the run in --out, or the newest run of this recipe."""


def main(argv: list[str]) -> int:
    from cssm.recipes import RECIPES, load_saved

    if not argv or argv[0].startswith("-"):
        print(_usage(RECIPES))
        if argv and argv[0] in ("-h", "--help"):
            return 0
        raise UsageError(f"cssm train: name a recipe first: {', '.join(RECIPES.names())}")
    recipe, given = RECIPES[argv[0]], given_flags(argv[1:])
    run = recipe()
    flags = _parse(run, argv, recipe.__doc__)
    run_dir = _run_dir(argv[0], flags)
    if flags.resume:  # the run goes on as it was saved; flags change how it is trained, not what
        run = load_saved(run_dir)
        run = continued(run, _parse(run, argv, recipe.__doc__), given)
    else:
        run = overridden(run, flags, given)
    enable_compilation_cache()
    return _train(run, run_dir, flags.resume, argv)


def _parse(run, argv: list[str], description: str | None) -> Flags:
    return parse(Flags, argv[1:], f"train {argv[0]}", description or "", Flags(**flag_values(run)))


def _usage(recipes) -> str:
    lines = [f"  {name:<15} {recipes[name].__doc__.splitlines()[0]}" for name in recipes.names()]
    return "usage: cssm train RECIPE [options]    (cssm train RECIPE --help shows them all)\n\nrecipes:\n" + "\n".join(
        lines
    )


def _run_dir(recipe: str, flags: Flags) -> Path:
    if flags.out is not None:
        return flags.out
    if not flags.resume:
        return Path("runs") / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    runs = sorted(p for p in Path("runs").glob(f"{recipe}-*") if (p / "checkpoints").is_dir())
    if not runs:
        raise UsageError(f"--resume: no run of {recipe!r} in runs/; name its folder with --out")
    return runs[-1]


def _train(run, run_dir: Path, resume: bool, argv: list[str]) -> int:
    from rich.console import Console

    from cssm.recipes import execute, prepare

    rest = [a for a in argv if a != "--resume"]
    out = [] if "--out" in rest else ["--out", str(run_dir)]
    hint = f"cssm train {shlex.join([*rest, *out])} --resume"
    prepare(run, run_dir, resume)
    print(f"run folder {run_dir}", file=sys.stderr)
    report = execute(run, run_dir, resume=resume, resume_hint=hint)
    Console().print(_table(run, report))
    for name, path in report.artifacts.items():
        print(f"{name}: {path}")
    print(json.dumps(report.summary()))
    return 0


def _table(run, report):
    from rich.table import Table

    table = Table(title=f"{run.recipe}: {type(run.data).__name__}, mixer {run.model.mixer}", title_justify="left")
    for column in ("what", "value"):
        table.add_column(column, justify="right" if column == "value" else "left")
    result = report.result
    table.add_row("validation accuracy (best checkpoint)", f"{report.val_accuracy:.3f}")
    table.add_row("markers-only baseline", "no markers" if report.markers_only is None else str(report.markers_only))
    table.add_row("parameters", f"{report.parameters:,}")
    table.add_row("steps (best at)", f"{result.final_step:,} ({result.best_step:,})")
    table.add_row(
        "training time", f"{result.seconds:.0f} s, {1e3 * result.seconds / max(result.final_step, 1):.0f} ms a step"
    )
    return table
