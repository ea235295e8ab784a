"""cssm data preview: a contact sheet of a data set, or of what an augmentation makes of it."""

import dataclasses
from pathlib import Path
from typing import Any

from cssm.core.errors import UsageError
from cssm.core.files import check_output

from .common import prepare_process
from .data_flags import Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preview:
    output: Path | None = None
    """PNG to write; default NAME.png."""
    data_dir: Path | None = None
    """Folder of published or made files; generated data needs none."""
    split: Split = "train"
    """Split to draw."""
    samples: int = 4
    """Samples of each class; with --augment of all classes together."""
    augment: str | None = None
    """Augmentation to draw, flip_shift, photo or views: each sample, then draws of it. Its fields are options."""
    draws: int | None = None
    """Draws of each sample, with --augment; default 6, of views 1."""
    seed: int | None = None
    """Of generated samples (default 0), or of the order of files (default: as published)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoAugment:
    """No augmentation: no options of one."""


def source_of(data: Any, split: str, size: int, seed: int | None) -> Any:
    """`size` samples of what is generated; files give all they have, or as many as they have."""
    from cssm.data.make import ENDLESS

    seeded = {} if seed is None else {"seed": seed}
    return data.source(split, size=size if type(data) in ENDLESS else None, **seeded)


def preview(name: str, flags: Preview, data: Any, augment: Any = None) -> int:
    """Draw a contact sheet, or with an augmentation a sheet of its draws."""
    if augment is not None:
        return _preview_augment(name, flags, data, augment)
    from cssm.viz.contact_sheet import contact_sheet
    from cssm.viz.tracks import tracks_sheet

    path = check_output(flags.output or Path(f"{name}.png"), ".png", "--output")
    if flags.draws is not None:
        raise UsageError("--draws is of an augmentation: add --augment photo, or leave it out")
    if not 1 <= flags.samples <= 512:
        raise UsageError(f"--samples is {flags.samples}: give 1 to 512, of each class")
    source = source_of(data, flags.split, 64 * flags.samples, flags.seed)
    title = f"{name}, {flags.split} split"
    if "tracks" in data.sample_spec:
        tracks_sheet(source, path, flags.samples, title)
        print(f"wrote {path}")
        return 0
    contact_sheet(source, path, samples=flags.samples, title=title, names=data.class_names)
    print(f"wrote {path}")
    return 0


def _preview_augment(name: str, flags: Preview, data, augment) -> int:
    from cssm.viz.augment_sheet import augment_sheet

    path = check_output(flags.output or Path(f"{name}.png"), ".png", "--output")
    kind = "imagenet" if data.sample_spec["input"].shape[-1] == 3 else "unit"
    fitted = augment.fitted(data, data.num_classes, kind)
    for field in dataclasses.fields(augment):
        given, now = getattr(augment, field.name), getattr(fitted, field.name)
        if given not in (now, field.default):
            flag = field.name.replace("_", "-")
            raise UsageError(f"--{flag} {given} does not hold: the data says {now}; leave it out")
    source = source_of(data, flags.split, 16 * max(1, min(flags.samples, 64)), flags.seed)
    draws = (1 if flags.augment == "views" else 6) if flags.draws is None else flags.draws
    prepare_process()
    augment_sheet(
        source, fitted, path, samples=flags.samples, draws=draws, names=data.class_names, normalization=kind,
        title=f"{name}, {flags.split} split, {flags.augment}", seed=flags.seed or 0,
    )  # fmt: skip
    print(f"wrote {path}")
    return 0
