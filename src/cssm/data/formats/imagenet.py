"""ImageNet-1k: folders of JPEGs, TFRecords in three dialects, ArrayRecords of the same."""

import dataclasses
import re
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cssm.core.errors import DataError
from cssm.core.files import read_small_text

from ..dataset import DATASETS, DataSet, Spec, check_split, image_spec, root_of
from ..source import Sample, Source, check_choice, check_range, take
from .arrayrecord import ArrayRecordFiles, is_array_record
from .example import Example
from .folders import listing, record_listing, subfolders
from .holdout import check_holdout, held_part, published_split, splits_with
from .imagefolder import class_folders, image_source, labelled_files
from .images import decode_image
from .records import FileSource, record_source
from .tfrecord import TFRecordFiles

LAYOUTS = ("auto", "folder", "tfrecord", "arrayrecord")
NAMES = {"train": ("train",), "val": ("val", "validation")}
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "ILSVRC2012_synsets.txt"
LINE_BYTES = 10_000_000  # of one list


@DATASETS.register("imagenet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNet(DataSet):
    """ImageNet-1k from files; the label is the place of the class's wnid in sorted order, 0..999.

    Folders come in turns, one of each class after the other, by file name, and have as many classes as train has
    folders; records come in the order of their files and have 1000. `source` and reading raise DataError for missing,
    truncated or foreign files, naming file and record.
    """

    root: Path | None = None
    """The data folder."""
    layout: Literal["auto", "folder", "tfrecord", "arrayrecord"] = "auto"
    """folder: train/WNID/*.JPEG, and val/WNID/*.JPEG or a flat val/ with the ground truth beside it in
    ILSVRC2012_validation_ground_truth.txt (a wnid a line, or ILSVRC numbers 1..1000 with ILSVRC2012_synsets.txt,
    whose line k is the wnid of number k). tfrecord, arrayrecord: records with `image` and `label`, as TFDS writes them
    too, or `image/encoded` and `image/class/label` (1..1000), in files with train or val or validation in their names
    or in a folder of that name. auto looks."""
    size: int = 224
    """Height and width, px: the short side is scaled to it and the centre cut out."""
    holdout: float = 0.0
    """Fraction of train that becomes val; the published val is then test."""
    skip_corrupt: bool = False
    """Leave unreadable images out, counted and logged, instead of raising."""

    baseline: ClassVar[str] = "majority"

    def __post_init__(self):
        check_choice("layout", self.layout, LAYOUTS)
        check_range("size", self.size, 1, 4096)
        check_holdout(self.holdout)

    @property
    def splits(self) -> tuple[str, ...]:
        return splits_with(("train", "val"), self.holdout)

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.root is None or self._layout() != "folder":
            return tuple(map(str, range(1000)))
        return class_folders(Path(self.root) / "train")

    @property
    def sample_spec(self) -> dict[str, Spec]:
        return image_spec(self.size, self.size, 3)

    def source(self, split: str = "train", *, size: int | None = None, seed: int | None = None) -> Source:
        """A split, or its first `size` samples; a seed puts them in another order."""
        root_of(self.root, "imagenet")
        check_split(self, "imagenet", split)
        published = published_split(split, ("train", "val"), self.holdout)
        if self._layout() == "folder":
            source = image_source(self._files(published), self.size, self.skip_corrupt)
        else:
            source = self._records(published)
        return take(held_part(source, split, self.holdout), size, seed)

    def _layout(self) -> str:
        """The layout, found by looking when it is auto."""
        root = root_of(self.root, "imagenet")
        if self.layout != "auto":
            return self.layout
        if (root / "train").is_dir() and subfolders(root / "train", "one folder per class"):
            return "folder"
        return "arrayrecord" if is_array_record(record_paths(root, "train")[0]) else "tfrecord"

    def _records(self, split: str) -> FileSource:
        paths = record_paths(root_of(self.root, "imagenet"), split)
        kind = TFRecordFiles if self._layout() == "tfrecord" else ArrayRecordFiles
        files = kind(paths, skip_corrupt=self.skip_corrupt)
        return record_source(files, lambda example: photo_sample(example, self.size), skip_corrupt=self.skip_corrupt)

    def _files(self, split: str) -> list[list[tuple[Path, int]]]:
        root = root_of(self.root, "imagenet")
        labels = {name: i for i, name in enumerate(class_folders(root / "train"))}
        if split == "val" and not subfolders(root / "val", "validation images"):
            return flat_validation(root, labels)
        return labelled_files(root / split, labels, self.skip_corrupt)


def flat_validation(root: Path, labels: dict[str, int]) -> list[list[tuple[Path, int]]]:
    """The (image, label) of every class of a flat val/ folder, by the ground truth file beside it."""
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
    classes: dict[int, list[tuple[Path, int]]] = {}
    for path, word in zip(files, truth, strict=True):
        classes.setdefault(labels[word], []).append((path, labels[word]))
    return [classes[label] for label in sorted(classes)]


def _at(synsets: list[str], number: int, path: Path, n: int) -> str:
    if not 1 <= number <= len(synsets):
        raise DataError(f"{path}, line {n + 1}: number {number} is outside 1..{len(synsets)} of {SYNSETS}")
    return synsets[number - 1]


def _lines(path: Path) -> list[str]:
    try:
        return [line.split()[0] for line in read_small_text(path, LINE_BYTES).splitlines() if line.strip()]
    except (OSError, DataError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def record_paths(root: Path, split: str) -> list[Path]:
    """The record files of a split: all in a folder of its name, or those of `root` with its name as a word."""
    for name in NAMES[split]:
        if (root / name).is_dir():
            return record_listing(root / name, f"ImageNet {split} records")
    word = re.compile(rf"(^|[-_.])({'|'.join(NAMES[split])})([-_.]|$)")
    paths = [path for path in record_listing(root, f"ImageNet {split} records") if word.search(path.name)]
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
