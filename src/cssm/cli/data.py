"""cssm data: make, preview, check data sets; cut a clip to stream."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import tyro

from cssm.core.errors import UnknownNameError, UsageError

from .common import parse

ACTIONS = {
    "make": "write train, val and test shards; a killed run continues; checksums in metadata.json",
    "preview": "draw a contact sheet as PNG",
    "check": "what the label gives away without vision: markers only, colour histogram",
    "verify": "compare the shards of a made folder with their checksums",
    "clip": "write one video as .npz, for cssm stream",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Make:
    out: Path
    """Folder for the shards."""
    train: int = 10_000
    """Samples; 0 leaves the split out."""
    val: int = 1_000
    test: int = 1_000
    format: Literal["arrayrecord", "tfrecord"] = "arrayrecord"
    """tfrecord is the published layout; arrayrecord is smaller and faster to read."""
    shard_size: int = 1_000
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview:
    output: Path | None = None
    """PNG to write; default NAME.png."""
    split: Literal["train", "val", "test"] = "train"
    samples: int = 4
    """Samples of each class."""
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    samples: int = 3_000
    """A third is held out for scoring."""
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    output: Path
    """.npz to write."""
    split: Literal["train", "val", "test"] = "test"
    index: int = 0
    """Sample of the split."""
    seed: int = 0


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] not in ACTIONS:
        raise UnknownNameError("action of cssm data", argv[0], ACTIONS)
    if argv[0] == "verify":
        return _verify(argv[1:])
    from cssm.data import datasets

    if len(argv) < 2 or argv[1].startswith("-"):
        raise UsageError(f"cssm data {argv[0]}: name a data set: {', '.join(datasets.names())}")
    kind, flags = datasets[argv[1]], {"make": Make, "preview": Preview, "check": Check, "clip": Clip}[argv[0]]
    both = dataclasses.make_dataclass("Options", [("flags", _flat(flags)), ("data", _flat(kind))], frozen=True)
    options = parse(both, argv[2:], f"data {argv[0]} {argv[1]}", ACTIONS[argv[0]])
    return {"make": _make, "preview": _preview, "check": _check, "clip": _clip}[argv[0]](
        argv[1], options.flags, options.data
    )


def _usage() -> str:
    lines = [f"  {name:<8} {text}" for name, text in ACTIONS.items()]
    return "usage: cssm data ACTION NAME [options]    (see cssm list datasets)\n\nactions:\n" + "\n".join(lines)


def _flat(kind):
    """Its fields become flags without a prefix."""
    return tyro.conf.OmitArgPrefixes[kind]


def _make(name: str, flags: Make, data) -> int:
    from cssm.data.make import make

    splits = {split: getattr(flags, split) for split in ("train", "val", "test") if getattr(flags, split)}
    if not splits:
        raise UsageError("cssm data make: --train, --val and --test are all 0: ask for samples")
    options = {"format": flags.format, "shard_size": flags.shard_size, "seed": flags.seed}
    folder = make(data, out=flags.out, splits=splits, progress=sys.stderr.isatty(), **options)
    print(f"wrote {', '.join(f'{n:,} {split}' for split, n in splits.items())} samples of {name} to {folder}")
    return 0


def _preview(name: str, flags: Preview, data) -> int:
    from cssm.viz.contact_sheet import contact_sheet

    path = flags.output or Path(f"{name}.png")
    if path.suffix != ".png":
        raise UsageError(f"--output {path}: the sheet is a PNG, give a name that ends in .png")
    source = data.source(flags.split, size=64 * flags.samples, seed=flags.seed)
    title = f"{name}, {flags.split} split"
    contact_sheet(source, path, samples=flags.samples, title=title)
    print(f"wrote {path}")
    return 0


def _check(name: str, flags: Check, data) -> int:
    from cssm.data.baselines import histogram, markers_only

    if flags.samples < 9:
        raise UsageError(f"--samples is {flags.samples}: give at least 9, a third of them is held out")
    source = data.source("train", size=flags.samples, seed=flags.seed)
    if "markers" in source.batch([0]):
        print(f"markers only      {markers_only(source, flags.samples)}")
    if data.num_classes == 2:
        print(f"colour histogram  {histogram(source, flags.samples)}")
    print("chance is .5 for two classes: what stands above it can be had without vision")
    return 0


def _verify(argv: list[str]) -> int:
    from cssm.data.formats.stored import verify

    if len(argv) != 1 or argv[0].startswith("-"):
        raise UsageError("usage: cssm data verify FOLDER")
    print(f"{verify(Path(argv[0]))} samples in whole shards")
    return 0


def _clip(name: str, flags: Clip, data) -> int:
    import numpy as np

    if flags.index < 0:
        raise UsageError(f"--index is {flags.index}: samples are counted from 0")
    sample = data.source(flags.split, size=flags.index + 1, seed=flags.seed)[flags.index]
    if sample["input"].ndim != 4:
        raise UsageError(f"{name} has still images, not videos: there is nothing to stream")
    path = flags.output.with_suffix(".npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, video=sample["input"], label=sample["label"])
    print(f"wrote {path}: video {sample['input'].shape}, label {int(sample['label'])}")
    return 0
