"""ImageNet-1k: folders of JPEGs, TFRecords in three dialects, ArrayRecords of the same."""

import dataclasses
import re
from pathlib import Path
from typing import Literal

import numpy as np

from cssm.core.errors import DataError

from ..source import Sample, Source, check_choice, check_range
from .arrayrecord import ArrayRecordFiles
from .example import Example
from .imagefolder import class_folders, image_source, labelled_files
from .images import decode_image
from .records import FileSource, listing, take
from .tfrecord import TFRecordFiles

LAYOUTS = ("folder", "tfrecord", "arrayrecord")
NAMES = {"train": ("train",), "val": ("val", "validation")}
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "ILSVRC2012_synsets.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNet:
    """ImageNet-1k from files; the label is the place of the class's wnid in sorted order, 0..999.

    Args:
        root: the data folder.
        layout: `folder`: train/WNID/*.JPEG, and val/WNID/*.JPEG or a flat val/ with the ground truth beside it in
            ILSVRC2012_validation_ground_truth.txt (a wnid a line, or ILSVRC numbers 1..1000 with
            ILSVRC2012_synsets.txt, whose line k is the wnid of number k). `tfrecord`, `arrayrecord`: records with
            `image` and `label`, as TFDS writes them too, or `image/encoded` and `image/class/label` (1..1000), in
            files with train or val or validation in their names or in a folder of that name.
        size: height and width: the short side is scaled to it and the centre cut out.
        skip_corrupt: leave unreadable images out, counted and logged, instead of raising.

    `source` and reading raise DataError for missing, truncated or foreign files, naming file and record.
    """

    root: Path
    layout: Literal["folder", "tfrecord", "arrayrecord"] = "folder"
    size: int = 224
    skip_corrupt: bool = False

    def __post_init__(self):
        check_choice("layout", self.layout, LAYOUTS)
        check_range("size", self.size, 1, 4096)

    @property
    def num_classes(self) -> int:
        return 1000

    def source(self, split: str = "train", *, size: int | None = None, seed: int = 0) -> Source:
        """A split, or its first `size` samples; folders in the order of a permutation by `seed`."""
        check_choice("split of ImageNet", split, tuple(NAMES))
        if self.layout == "folder":
            return image_source(self._files(split), self.size, self.skip_corrupt, size, seed)
        paths = record_paths(Path(self.root), split)
        if self.layout == "tfrecord":
            files = TFRecordFiles(paths, skip_corrupt=self.skip_corrupt)
        else:
            files = ArrayRecordFiles(paths, skip_corrupt=self.skip_corrupt)

        def read(i: int) -> Sample:
            return photo_sample(Example(files.read(i), files.where(i)), self.size)

        source = FileSource(
            len(files), read, files.where, skip_corrupt=self.skip_corrupt, already_left_out=files.left_out
        )
        return take(source, size)

    def _files(self, split: str) -> list[tuple[Path, int]]:
        root = Path(self.root)
        labels = {name: i for i, name in enumerate(class_folders(root / "train"))}
        if split == "val" and not any(p.is_dir() for p in (root / "val").iterdir()):
            return flat_validation(root, labels)
        return labelled_files(root / split, labels)


def flat_validation(root: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    """(image, label) of a flat val/ folder, by the ground truth file beside it."""
    files = listing(root / "val", (".jpg", ".jpeg"), "validation images")
    truth = _lines(root / TRUTH)
    if len(truth) != len(files):
        raise DataError(f"{root / TRUTH}: {len(truth)} lines for {len(files)} images in {root / 'val'}")
    if all(word.isascii() and word.isdigit() for word in truth):
        synsets = _lines(root / SYNSETS)
        truth = [_at(synsets, int(word), root / TRUTH, n) for n, word in enumerate(truth)]
    for n, word in enumerate(truth):
        if word not in labels:
            raise DataError(f"{root / TRUTH}, line {n + 1}: {word!r} is no class of {root / 'train'}")
    return [(path, labels[word]) for path, word in zip(files, truth, strict=True)]


def _at(synsets: list[str], number: int, path: Path, n: int) -> str:
    if not 1 <= number <= len(synsets):
        raise DataError(f"{path}, line {n + 1}: number {number} is outside 1..{len(synsets)} of {SYNSETS}")
    return synsets[number - 1]


def _lines(path: Path) -> list[str]:
    try:
        return [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def record_paths(root: Path, split: str) -> list[Path]:
    """The record files of a split: all in a folder of its name, or those of `root` with its name as a word."""
    for name in NAMES[split]:
        if (root / name).is_dir():
            return listing(root / name, ("",), f"ImageNet {split} records")
    word = re.compile(rf"(^|[-_.])({'|'.join(NAMES[split])})([-_.]|$)")
    paths = [path for path in listing(root, ("",), f"ImageNet {split} records") if word.search(path.name)]
    if not paths:
        raise DataError(f"{root}: no file or folder with {' or '.join(NAMES[split])} in its name")
    return paths


def photo_sample(example: Example, size: int) -> Sample:
    """The sample of a record in any of the three dialects."""
    slim = "image/encoded" in example
    image = example.bytes("image/encoded" if slim else "image")
    label = example.integer("image/class/label") - 1 if slim else example.integer("label")
    if not 0 <= label < 1000:
        raise DataError(f"{example.where}: label {label + slim}, expected {'1..1000' if slim else '0..999'}")
    return {"input": decode_image(image, example.where, size=size, crop=True), "label": np.int32(label)}
