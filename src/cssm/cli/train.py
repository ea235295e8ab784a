"""cssm train: a recipe, any of its values overridden by flags."""

import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Literal

from cssm.core.errors import UsageError

from .common import enable_compilation_cache, parse

FRAME_DATASETS = ("pathtracker", "featuretracker")


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
    from cssm.recipes import RECIPES

    if not argv or argv[0].startswith("-"):
        print(_usage(RECIPES))
        if argv and argv[0] in ("-h", "--help"):
            return 0
        raise UsageError(f"cssm train: name a recipe first: {', '.join(RECIPES.names())}")
    recipe = RECIPES[argv[0]]
    run = recipe()
    default = flags_of(run)
    flags = parse(Flags, argv[1:], f"train {argv[0]}", recipe.__doc__, default)
    run_dir = _run_dir(argv[0], flags)
    enable_compilation_cache()
    return _train(apply(flags, default, run), run_dir, flags.resume, argv)


def _usage(recipes) -> str:
    lines = [f"  {name:<15} {recipes[name].__doc__.splitlines()[0]}" for name in recipes.names()]
    return "usage: cssm train RECIPE [options]    (cssm train RECIPE --help shows them all)\n\nrecipes:\n" + "\n".join(
        lines
    )


def flags_of(run) -> Flags:
    """The recipe's values as flags."""
    model, train, task = run.model, run.train, run.task
    options = tuple(f"{name}={value}" for name, value in model.mixer_options.items() if name != "kernel_size")
    return Flags(
        arch="simple", cssm=model.mixer, embed_dim=model.embed_dim, depth=model.depth, seq_len=model.seq_len,
        image_size=model.image_size, kernel_size=model.mixer_options.get("kernel_size"), mixer_options=options,
        stem_mode=model.stem, pos_embed=model.position, norm_type=model.norm, act=model.act, pool_type=model.pool,
        frame_readout=model.readout, drop_path=model.drop_path, dataset=_dataset_name(run.data), data_dir=None,
        pathfinder_difficulty=_field(run.data, "difficulty"), distractors=_field(run.data, "distractors"),
        skip_corrupt=False, train_size=run.train_size, val_size=run.val_size, steps=train.steps, epochs=train.epochs,
        batch_size=train.batch_size, lr=train.lr, weight_decay=train.weight_decay, grad_clip=train.grad_clip,
        warmup_steps=train.warmup_steps, ema=train.ema, accumulate=train.accumulate, compute_dtype=train.compute_dtype,
        eval_every=train.eval_every, label_smoothing=task.label_smoothing, normalization=task.normalization,
        logger=train.logger, seed=train.seed,
    )  # fmt: skip


def apply(flags: Flags, default: Flags, run):
    """The recipe with every flag that differs from its default put in."""
    from cssm.models import MODELS

    if type(MODELS[flags.arch]) is not type(run.model):
        raise UsageError(
            f"recipe {run.recipe!r} trains a {type(run.model).__name__}; --arch {flags.arch} is another kind"
        )
    data = _data(flags, default, run)
    mixer_options = _mixer_options(flags, default)
    if flags.kernel_size is not None:
        mixer_options["kernel_size"] = flags.kernel_size
    model = dataclasses.replace(
        run.model, mixer=flags.cssm, mixer_options=mixer_options, embed_dim=flags.embed_dim, depth=flags.depth,
        seq_len=flags.seq_len, image_size=flags.image_size, stem=flags.stem_mode, position=flags.pos_embed,
        norm=flags.norm_type, act=flags.act, pool=flags.pool_type, readout=flags.frame_readout,
        drop_path=flags.drop_path, num_classes=data.num_classes,
    )  # fmt: skip
    steps, epochs = _length(flags, default)
    train = dataclasses.replace(
        run.train, steps=steps, epochs=epochs, batch_size=flags.batch_size, lr=flags.lr,
        weight_decay=flags.weight_decay, grad_clip=flags.grad_clip, warmup_steps=flags.warmup_steps, ema=flags.ema,
        accumulate=flags.accumulate, compute_dtype=flags.compute_dtype, eval_every=flags.eval_every,
        logger=flags.logger, seed=flags.seed,
    )  # fmt: skip
    task = dataclasses.replace(
        run.task, label_smoothing=flags.label_smoothing, normalization=flags.normalization, num_classes=data.num_classes
    )
    return dataclasses.replace(run, data=data, model=model, task=task, train=train, **_sizes(flags, default))


def _mixer_options(flags: Flags, default: Flags) -> dict[str, Any]:
    """Name -> number or word. Another mixer does not inherit the recipe's options."""
    if flags.cssm != default.cssm and flags.mixer_options == default.mixer_options:
        return {}
    options = {}
    for pair in flags.mixer_options:
        name, equals, text = pair.partition("=")
        if not (name and equals and text):
            raise UsageError(f"--mixer-options {pair!r}: expected name=value, such as memory=8.0")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def _field(config, name: str):
    """The value of a dataclass field, None where there is no such field."""
    return getattr(config, name) if name in {field.name for field in dataclasses.fields(config)} else None


def _sizes(flags: Flags, default: Flags) -> dict[str, int | None]:
    """Samples of each split: files give all they have, unless a size was asked for."""
    sizes = {"train_size": flags.train_size, "val_size": flags.val_size}
    if flags.data_dir is None:
        return sizes
    return {k: None if v == getattr(default, k) else v for k, v in sizes.items()} | {"test_size": None}


def _length(flags: Flags, default: Flags) -> tuple[int | None, int | float | None]:
    """Whichever of --steps and --epochs was given replaces the recipe's."""
    if flags.steps != default.steps and flags.epochs != default.epochs:
        raise UsageError("give --steps or --epochs, not both")
    if flags.steps != default.steps:
        return flags.steps, None
    if flags.epochs != default.epochs:
        return None, flags.epochs
    return default.steps, default.epochs


def _dataset_name(data) -> str:
    from cssm.data import datasets

    return next(name for name in datasets.names() if datasets[name] is type(data))


def _data(flags: Flags, default: Flags, run):
    """The data set's configuration; a flag that it does not have is an error."""
    from cssm.data import datasets
    from cssm.data.formats.detect import detect

    kind = datasets[flags.dataset]
    base = run.data if flags.dataset == default.dataset else kind()
    known = {field.name for field in dataclasses.fields(kind)}
    wanted = {"frames": flags.seq_len} if "frames" in known else {}
    if flags.image_size != default.image_size or "size" in known:
        wanted["size"] = flags.image_size
    for flag, option in (("pathfinder_difficulty", "difficulty"), ("distractors", "distractors")):
        value = getattr(flags, flag)
        if option in known and value is not None:
            wanted[option] = value
        elif value != getattr(default, flag):
            raise UsageError(f"--{flag.replace('_', '-')} does not apply to data set {flags.dataset!r}: leave it out")
    if flags.data_dir is not None:
        options = {"difficulty": wanted.get("difficulty", _field(base, "difficulty")), "size": wanted.get("size")}
        return detect(
            flags.data_dir, flags.dataset, frames=wanted.get("frames"), skip_corrupt=flags.skip_corrupt, **options
        )
    if flags.skip_corrupt:
        raise UsageError("--skip-corrupt is for files: give --data-dir too")
    unknown = set(wanted) - known
    if unknown:
        raise UsageError(f"--image-size does not apply to data set {flags.dataset!r}, whose frames have one size")
    return dataclasses.replace(base, **wanted)


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
