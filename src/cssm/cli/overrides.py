"""From the flags of `cssm train` to a run, and back. A flag counts as given when it stands on the command line."""

import dataclasses
import json
from typing import Any

from cssm.core.errors import UsageError

MODEL = {
    "cssm": "mixer", "embed_dim": "embed_dim", "depth": "depth", "seq_len": "seq_len", "image_size": "image_size",
    "stem_mode": "stem", "pos_embed": "position", "norm_type": "norm", "act": "act", "pool_type": "pool",
    "frame_readout": "readout", "drop_path": "drop_path",
}  # fmt: skip
TASK = ("label_smoothing", "normalization")
TRAIN = (
    "batch_size", "lr", "weight_decay", "grad_clip", "warmup_steps", "ema", "accumulate", "compute_dtype",
    "eval_every", "logger", "seed", "steps", "epochs",
)  # fmt: skip
DATA = {"pathfinder_difficulty": "difficulty", "distractors": "distractors"}
SIZES = ("train_size", "val_size")


def given_flags(argv: list[str]) -> set[str]:
    """Names of the flags on the command line: {"embed_dim", "resume"} of `--embed-dim 8 --resume`."""
    names = (a[2:].partition("=")[0].replace("-", "_") for a in argv if a.startswith("--"))
    return {name.removeprefix("no_") for name in names}


def flag_values(run) -> dict[str, Any]:
    """The run's values under the names of the flags."""
    options = (f"{name}={value}" for name, value in run.model.mixer_options.items() if name != "kernel_size")
    values = {flag: getattr(run.model, field) for flag, field in MODEL.items()}
    values |= {name: getattr(run.task, name) for name in TASK} | {name: getattr(run.train, name) for name in TRAIN}
    values |= {flag: _field(run.data, option) for flag, option in DATA.items()}
    values |= {name: getattr(run, name) for name in SIZES}
    return values | {
        "arch": "simple",
        "kernel_size": run.model.mixer_options.get("kernel_size"),
        "mixer_options": tuple(options),
        "dataset": run.dataset,
        "data_dir": _field(run.data, "root"),
        "skip_corrupt": bool(_field(run.data, "skip_corrupt")),
    }


def overridden(run, flags, given: set[str]):
    """The recipe's run with the given flags put in.

    Raises:
      UsageError: flags that contradict each other, or that the data set, files or mixer cannot honour.
    """
    from cssm.models import MODELS

    if type(MODELS[flags.arch]) is not type(run.model):
        raise UsageError(
            f"recipe {run.recipe!r} trains {type(run.model).__name__}; --arch {flags.arch} is another kind"
        )
    data, seen = _data(run, flags, given)
    changes = {field: getattr(flags, flag) for flag, field in MODEL.items()} | seen
    model = dataclasses.replace(
        run.model, mixer_options=_mixer_options(run, flags, given), num_classes=data.num_classes, **changes
    )
    task = dataclasses.replace(run.task, num_classes=data.num_classes, **{name: getattr(flags, name) for name in TASK})
    sizes = {name: getattr(flags, name) for name in SIZES}
    if flags.data_dir is not None:  # files give all they have, unless a size was asked for
        sizes = {name: size if name in given else None for name, size in sizes.items()} | {"test_size": None}
    _positive(sizes)
    run = dataclasses.replace(run, dataset=flags.dataset, data=data, model=model, task=task, **sizes)
    return dataclasses.replace(run, train=_train_config(run, flags, given))


def continued(run, flags, given: set[str]):
    """The saved run with new training options; UsageError for a flag that would make it another run."""
    before = flag_values(run)
    for name in sorted(given & set(before) - set(TRAIN)):
        now, then = getattr(flags, name), before[name]
        if name == "mixer_options":
            now, then = _pairs(now), _pairs(then)
        if now != then:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"--resume continues the run as it was: its {flag} is {then}, not {now}; leave {flag} out")
    return dataclasses.replace(run, train=_train_config(run, flags, given))


def _train_config(run, flags, given: set[str]):
    if {"steps", "epochs"} <= given:
        raise UsageError("give --steps or --epochs, not both")
    changes = {name: getattr(flags, name) for name in TRAIN}
    if "steps" in given:
        changes["epochs"] = None
    elif "epochs" in given:
        changes["steps"] = None
    if (changes["epochs"] is None) != (run.train.epochs is None) and "eval_every" not in given:
        changes["eval_every"] = None  # it was counted in the other unit
    return dataclasses.replace(run.train, **changes)


def _mixer_options(run, flags, given: set[str]) -> dict[str, Any]:
    """The mixer's keyword arguments; another mixer does not inherit the recipe's."""
    inherited = flags.cssm == run.model.mixer or "mixer_options" in given
    options = _pairs(flags.mixer_options) if inherited else {}
    if "kernel_size" in options and "kernel_size" in given:
        raise UsageError("--kernel-size and --mixer-options kernel_size= say the same thing: give one")
    if flags.kernel_size is not None and (inherited or "kernel_size" in given):
        options["kernel_size"] = flags.kernel_size
    return options


def _pairs(texts: tuple[str, ...]) -> dict[str, Any]:
    """name=value -> number, true, false, null or word."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--mixer-options {text!r}: expected name=value, such as memory=8.0")
        try:
            options[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            options[name] = None if value == "None" else value
    return options


def _data(run, flags, given: set[str]) -> tuple[Any, dict[str, Any]]:
    """The data set's configuration, and what its files say of frames and size; a flag it lacks is an error."""
    from cssm.data import datasets

    kind = datasets[flags.dataset]
    base = run.data if flags.dataset == run.dataset else kind()
    known = {field.name for field in dataclasses.fields(kind)}
    wanted = {option: getattr(flags, flag) for flag, option in DATA.items() if flag in given}
    wanted |= {"frames": flags.seq_len} if "frames" in known else {}
    wanted |= {"size": flags.image_size} if "size" in known or "image_size" in given else {}
    for option in sorted(set(wanted) - known):
        flag = {"size": "image-size", "difficulty": "pathfinder-difficulty"}.get(option, option)
        raise UsageError(f"--{flag} does not apply to data set {flags.dataset!r}: leave it out")
    if flags.data_dir is not None:
        return _files(base, flags, given, wanted)
    if flags.skip_corrupt:
        raise UsageError("--skip-corrupt is for files: give --data-dir too")
    return dataclasses.replace(base, **wanted), {}


def _files(base, flags, given: set[str], wanted: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Files of a published set are cut and resized as asked; a made set is as it was made, and says so."""
    from cssm.data.formats.detect import detect, made_options

    difficulty = wanted.get("difficulty", _field(base, "difficulty"))
    options = {"difficulty": difficulty, "size": wanted.get("size"), "frames": wanted.get("frames")}
    data = detect(flags.data_dir, flags.dataset, skip_corrupt=flags.skip_corrupt, **options)
    stored = made_options(data)
    asked = {
        "frames": "seq_len",
        "size": "image_size",
        "difficulty": "pathfinder_difficulty",
        "distractors": "distractors",
    }
    for option, flag in asked.items():
        if flag in given and option in stored and getattr(flags, flag) != stored[option]:
            name = f"--{flag.replace('_', '-')}"
            raise UsageError(
                f"{flags.data_dir} was made with {option} {stored[option]}: leave {name} out, or make another"
            )
    if not stored and "distractors" in given:
        raise UsageError("--distractors is for generated data: files have the distractors they have")
    return data, {
        flag: stored[option] for option, flag in (("frames", "seq_len"), ("size", "image_size")) if option in stored
    }


def _field(config, name: str):
    """The value of a dataclass field, None where there is no such field."""
    return getattr(config, name) if name in {field.name for field in dataclasses.fields(config)} else None


def _positive(sizes: dict[str, int | None]) -> None:
    for name, size in sizes.items():
        if size is not None and size < 9:
            raise UsageError(f"--{name.replace('_', '-')} is {size}: give at least 9 samples")
