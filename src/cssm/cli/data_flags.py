"""The flags of the actions of `cssm data`; those of the data set come beside them."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

Split = Literal["train", "val", "test"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Make:
    out: Path
    """Folder for the shards."""
    train: int | None = None
    """Training samples; 0 leaves the split out, as for the other two. Default 10,000, of digits all 1,257."""
    val: int | None = None
    """Validation samples; default 1,000, of digits all 270."""
    test: int | None = None
    """Test samples; default 1,000, of digits all 270."""
    format: Literal["arrayrecord", "tfrecord"] = "arrayrecord"
    """tfrecord is the published layout; arrayrecord is smaller and faster to read."""
    shard_size: int = 1_000
    """Samples of a shard."""
    seed: int = 0
    """Of the samples; of digits, of their order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeTracks:
    output: Path
    """.pkl in the form of tapvid_davis.pkl. Named synthetic-v1-easy.pkl or synthetic-v1-hard.pkl, it is that frozen
    set, 100 videos of 256 px, and takes no other options."""
    split: Split = "test"
    """Split whose textures are used."""
    videos: int = 100
    """How many."""
    seed: int = 0
    """Of the videos."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pack:
    output: Path
    """Folder for the shards; --data-dir of later commands."""
    data_dir: Path | None = None
    """Folder of the photographs."""
    short_side: int = 256
    """Larger photographs are scaled to this short side, px: about size / crop_pct of the training to come."""
    quality: int = 90
    """Of the JPEGs. Small JPEGs, upright and in RGB, are copied as they are."""
    splits: tuple[Split, ...] = ()
    """Those to pack; default all that the files are in."""
    shard_size: int = 10_000
    """Photographs of a shard."""
    threads: int | None = None
    """That decode and encode; default all cores, 16 at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    data_dir: Path | None = None
    """Folder of published or made files; generated data needs none."""
    split: Split = "train"
    """Split to check."""
    samples: int = 3_000
    """Samples used, at most; a third is held out for scoring."""
    seed: int | None = None
    """Of generated samples (default 0), or of the order of files (default: as published)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    data_dir: Path | None = None
    """Folder of published, made or packed files; generated data needs none."""
    rate: float = 3_000.0
    """Samples a second that training is to take: how many cores that needs is printed. The default is an assumption, of
    a small image model on one large GPU; the progress bar of a training run says yours."""
    seconds: float = 3.0
    """Of each measurement."""
    batch_size: int = 64
    """Samples of a batch."""
    threads: int | None = None
    """Of the loader; default as in training: all cores, 16 at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    output: Path
    """.npz to write."""
    data_dir: Path | None = None
    """Folder of published or made files; generated data needs none."""
    split: Split = "test"
    """Split to take it from."""
    index: int = 0
    """Sample of the split."""
    seed: int | None = None
    """Of generated samples (default 0), or of the order of files (default: as published)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
    folder: tyro.conf.Positional[Path]
    """Folder that `cssm data make` or `cssm data pack` wrote."""
