"""cssm data: make, pack, preview, check and time data sets; cut a clip to stream."""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from cssm.core.errors import DataError, UnknownNameError, UsageError
from cssm.core.files import check_output, replacing

from .common import annotated, parse, quiet
from .data_flags import Check, Clip, Make, MakeTracks, Pack, Speed, Verify
from .data_preview import NoAugment, Preview, preview, source_of


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] not in ACTIONS:
        raise UnknownNameError("action of cssm data", argv[0], ACTIONS)
    name, action, rest = argv[0], ACTIONS[argv[0]], argv[1:]
    if name == "verify":
        return _verify(parse(Verify, rest, "data verify", action.help))
    from cssm.data import DATASETS

    names = {"make": _written, "pack": _packable}.get(name, DATASETS.names)()
    if rest[:1] and rest[0] in ("-h", "--help"):
        about = f"{action.help}\n\nNAME is one of {', '.join(names)}; cssm data {name} NAME --help adds its options."
        parse(action.flags, ["--help"], f"data {name} NAME", about)
    if not rest or rest[0].startswith("-"):
        raise UsageError(f"cssm data {name}: name a data set: {', '.join(names)}")
    dataset = DATASETS.canonical(rest[0])
    if dataset not in names:
        why = "has files of its own; it can write" if name == "make" else "has no photographs of its own; it can pack"
        raise UsageError(f"cssm data {name}: {dataset} {why} {', '.join(names)}")
    flags, data, augment = _parse(name, dataset, rest[1:])
    return action.run(dataset, flags, data) if name != "preview" else preview(dataset, flags, data, augment)


def _written() -> list[str]:
    from cssm.data.make import WRITTEN

    return sorted([*WRITTEN.values(), "tracks"])


def _packable() -> list[str]:
    from cssm.data import DATASETS, PackedImages
    from cssm.data.formats.photographs import Photographs

    kinds = {name: DATASETS[name] for name in DATASETS.names()}
    return sorted(name for name, kind in kinds.items() if issubclass(kind, Photographs) and kind is not PackedImages)


def _usage() -> str:
    lines = [f"  {name:<8} {action.help}" for name, action in ACTIONS.items()]
    head = "usage: cssm data ACTION NAME [options]    (see cssm list datasets; cssm data ACTION --help for options)"
    return "\n".join([head, "", "actions:", *lines])


def _parse(action: str, dataset: str, argv: list[str]) -> tuple[Any, Any, Any]:
    """The action's flags, the data set and the augmentation or None, whose own fields are flags too."""
    from cssm.data import DATASETS, files_class, open_files
    from cssm.data.augment import AUGMENTS

    folder = None if action == "make" else _first(argv, "--data-dir", Path)
    asked = _first(argv, "--augment", str) if action == "preview" else None
    augment: Any = NoAugment if asked in (None, "none") else AUGMENTS[asked]
    kind: Any = DATASETS[dataset] if folder is None else files_class(folder, dataset)
    command = f"data {action} {dataset}"
    flags = MakeTracks if (action, dataset) == ("make", "tracks") else ACTIONS[action].flags
    hidden = _hidden(action)
    both = dataclasses.make_dataclass(
        "Options",
        [("flags", _flat(flags)), ("data", _flat(_without(kind, hidden))), ("augment", _flat(augment))],
        frozen=True,
    )
    about = (kind.__doc__ or "").strip().partition("\n")[0]
    options = parse(both, argv, command, f"{ACTIONS[action].help}\n\n{about}")
    given = {f.name: getattr(options.data, f.name) for f in dataclasses.fields(kind) if f.name not in hidden}
    data = kind(**given) if folder is None else open_files(folder, dataset, **given)
    return options.flags, data, None if augment is NoAugment else options.augment


def _first(argv: list[str], name: str, kind: Callable[[str], Any]) -> Any:
    """The value of --data-dir or --augment, looked for first: it decides which options there are."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument(name, name[:2] + name[2:].replace("-", "_"), type=kind, dest="value")
    try:
        return finder.parse_known_args(argv)[0].value
    except argparse.ArgumentError:  # without a value: the real parser says so
        return None


def _hidden(action: str) -> set[str]:
    """Fields of a data set that are no flags: its root, which --data-dir gives; how it is read, where it is packed."""
    if action != "pack":
        return {"root"}
    from cssm.data.pack import SEEN

    return SEEN - {"skip_corrupt"}


def _without(kind: type, names: set[str]) -> type:
    """`kind` some of whose fields are no flags."""
    hidden = [field.name for field in dataclasses.fields(kind) if field.name in names]
    return annotated(kind, dict.fromkeys(hidden, Annotated[Any, tyro.conf.Suppress]))


def _flat(kind):
    """Its fields become flags without a prefix."""
    return tyro.conf.OmitArgPrefixes[quiet(kind)]


def _make(name: str, flags: Any, data) -> int:
    if isinstance(flags, MakeTracks):
        return _make_tracks(flags, data)
    from cssm.data.make import GENERATED, make

    splits = {}
    for split, usual in {"train": 10_000, "val": 1_000, "test": 1_000}.items():
        asked = getattr(flags, split)
        if asked is None:
            asked = usual if type(data) in GENERATED else len(data.source(split))
        if asked < 0:
            raise UsageError(f"--{split} is {asked}: give a number of samples, or 0 to leave the split out")
        splits |= {split: asked} if asked else {}
    if not splits:
        raise UsageError("cssm data make: --train, --val and --test are all 0: ask for samples")
    options = {"format": flags.format, "shard_size": flags.shard_size, "seed": flags.seed}
    folder = make(data, out=flags.out, splits=splits, progress=sys.stderr.isatty(), **options)
    print(f"wrote {', '.join(f'{n:,} {split}' for split, n in splits.items())} samples of {name} to {folder}")
    return 0


def _make_tracks(flags: MakeTracks, data) -> int:
    from rich.console import Console
    from rich.progress import track

    from cssm.data.formats.tapvid import write_tapvid
    from cssm.data.tracks import FROZEN, FROZEN_SIZE, Tracks, frozen, videos

    path = check_output(flags.output, ".pkl", "--output")
    if flags.videos < 1:
        raise UsageError(f"--videos is {flags.videos}: give at least one")
    if path.stem in FROZEN:
        if (flags, data) != (MakeTracks(output=flags.output), Tracks()):
            raise UsageError(f"{path.stem} is a frozen set: leave the other options out, or choose another name")
        made, count = frozen(path.stem), FROZEN_SIZE
    else:
        made, count = videos(data.source(flags.split, size=flags.videos, seed=flags.seed), "tracks"), flags.videos
    console = Console(stderr=True)
    write_tapvid(path, track(made, "videos", total=count, console=console, disable=not console.is_terminal))
    print(f"wrote {count} videos to {path}")
    return 0


def _pack(name: str, flags: Pack, data) -> int:
    from cssm.data.formats.manifest import read_metadata
    from cssm.data.pack import pack

    if flags.data_dir is None:
        raise UsageError(f"{name} is read from files: give --data-dir")
    folder = pack(
        data,
        out=flags.output,
        splits=flags.splits or None,
        short_side=flags.short_side,
        quality=flags.quality,
        shard_size=flags.shard_size,
        threads=flags.threads,
        progress=sys.stderr.isatty(),
    )
    metadata = read_metadata(folder)
    counts = ", ".join(f"{metadata[f'{split}_samples']:,} {split}" for split in metadata["splits"])
    left_out = sum(map(len, metadata.get("left_out", {}).values()))
    print(f"packed {counts} photographs of {name} into {folder}{f'; {left_out} left out' if left_out else ''}")
    return 0


def _speed(name: str, flags: Speed, data) -> int:
    from cssm.data.speed import measure

    for option, low, high in (("seconds", 0.1, 600), ("rate", 1, 1e9), ("batch_size", 1, 2**16)):
        if not low <= getattr(flags, option) <= high:
            given = f"--{option.replace('_', '-')} is {getattr(flags, option)}"
            raise UsageError(f"{given}: give {low:g} to {high:g}")
    speed = measure(data, threads=flags.threads, seconds=flags.seconds, batch_size=flags.batch_size)
    what = "videos" if len(data.sample_spec["input"].shape) == 4 else "images"
    total = sum(speed.stages.values())
    split = ", ".join(f"{stage} {seconds / total:.0%}" for stage, seconds in speed.stages.items())
    print(f"{speed.one:,.0f} {what}/s on one core{f' ({split})' if split else ''}")
    print(f"{speed.all:,.0f} {what}/s with {speed.threads} threads of the loader")
    cores = speed.cores(flags.rate)
    print(f"at {flags.rate:,.0f} {what}/s of training: {cores:,} core{'s' * (cores > 1)}")
    return 0


def _check(name: str, flags: Check, data) -> int:
    from cssm.data.baselines import histogram, shortcut

    if flags.samples < 9:
        raise UsageError(f"--samples is {flags.samples}: give at least 9, a third of them is held out")
    if "tracks" in data.sample_spec:
        return _check_tracks(flags, data)
    source = source_of(data, flags.split, flags.samples, flags.seed)
    samples = min(flags.samples, len(source))
    found = [shortcut(data, source, n=samples)]
    if data.num_classes == 2:
        found.append(histogram(source, samples))
    for baseline in found:
        print(f"{baseline.name.replace('_', ' '):<17} {baseline}")
    print(f"chance is {1 / data.num_classes:.3g}: what stands above it can be had without vision")
    return 0


def _check_tracks(flags: Check, data) -> int:
    from cssm.data.tracks_check import check_tracks

    facts = check_tracks(data, flags.split, min(flags.samples, 100), flags.seed or 0)
    print(f"{facts.compared:,} pixels of points: colour of the texture within {facts.colour:.2f} of 255 (rounding: .5)")
    print(f"place of the texel within {facts.place:.1e} texels")
    print(f"{facts.returning:.1%} of the points are hidden for 3 frames or more and come back")
    print(f"{facts.visible:.1%} of all points and frames are seen")
    if facts.colour > 1 or facts.place > 1e-6:
        raise DataError("the tracks are not those of the pictures")
    return 0


def _verify(flags: Verify) -> int:
    from cssm.data.formats.manifest import verify

    print(f"{verify(flags.folder)} samples in whole shards")
    return 0


def _clip(name: str, flags: Clip, data) -> int:
    import numpy as np

    named = flags.output.name not in ("", "..") and not flags.output.suffix and not flags.output.is_dir()
    output = flags.output.with_suffix(".npz") if named else flags.output
    path = check_output(output, ".npz", "--output")
    if not 0 <= flags.index < 2**31:
        raise UsageError(f"--index is {flags.index}: samples are counted from 0, to 2**31")
    source = source_of(data, flags.split, flags.index + 1, flags.seed)
    if flags.index >= len(source):
        raise UsageError(f"--index is {flags.index}: the {flags.split} split has {len(source)} samples")
    sample = source[flags.index]
    if sample["input"].ndim != 4:
        raise UsageError(f"{name} has still images, not videos: there is nothing to stream")
    path.parent.mkdir(parents=True, exist_ok=True)
    if "tracks" in sample:
        about = {key: sample[key] for key in ("query_points", "tracks", "occluded")}
        with replacing(path) as new, new.open("wb") as file:
            np.savez_compressed(file, video=sample["input"], **about)
        print(f"wrote {path}: video {sample['input'].shape}, {len(sample['tracks'])} tracks")
        return 0
    with replacing(path) as new, new.open("wb") as file:
        np.savez_compressed(file, video=sample["input"], label=sample["label"])
    label = int(sample["label"])
    print(f"wrote {path}: video {sample['input'].shape}, label {label}, {data.class_names[label]}")
    return 0


class Action(NamedTuple):
    help: str
    flags: type
    run: Callable[..., int]


ACTIONS = {
    "make": Action("write train, val and test shards; a killed run continues; checksums in metadata.json", Make, _make),
    "pack": Action(
        "write photographs as JPEGs of a small short side into shards, once, for fast training", Pack, _pack
    ),
    "preview": Action("draw a contact sheet as PNG", Preview, preview),
    "check": Action("what the label gives away without vision: markers, the majority class, colours", Check, _check),
    "speed": Action("samples a second as training reads them; the cores that keep an accelerator busy", Speed, _speed),
    "verify": Action("compare the shards of a made or packed folder with their checksums", Verify, _verify),
    "clip": Action("write one video as .npz, for cssm stream and cssm predict", Clip, _clip),
}
