"""ImageNet-1k: folders of JPEGs, TFRecords in three dialects, ArrayRecords of the same."""

import dataclasses
import re
from pathlib import Path
from typing import ClassVar, Literal

from cssm.core.errors import DataError
from cssm.core.files import read_small_text

from ..dataset import DATASETS, root_of
from ..source import check_choice
from .arrayrecord import ArrayRecordFiles, is_array_record
from .example import Example
from .folders import check_numbered, listing, record_listing, subfolders
from .imagefolder import class_folders, in_turns, labelled_files
from .photographs import Encoded, EncodedImages, Photographs
from .tfrecord import TFRecordFiles

LAYOUTS = ("auto", "folder", "tfrecord", "arrayrecord")
NAMES = {"train": ("train",), "val": ("val", "validation")}
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "ILSVRC2012_synsets.txt"
LINE_BYTES = 10_000_000  # of one list


@DATASETS.register("imagenet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNet(Photographs):
    """ImageNet-1k from files; the label is the place of the class's wnid in sorted order, 0..999.

    Folders come in turns, one of each class after the other, by file name, and have as many classes as train has
    folders; records come in the order of their files and have 1000. `source` and reading raise DataError for missing,
    truncated or foreign files, naming file and record.
    """

    layout: Literal["auto", "folder", "tfrecord", "arrayrecord"] = "auto"
    """folder: train/WNID/*.JPEG, and val/WNID/*.JPEG or a flat val/ with the ground truth beside it in
    ILSVRC2012_validation_ground_truth.txt (a wnid a line, or ILSVRC numbers 1..1000 with ILSVRC2012_synsets.txt,
    whose line k is the wnid of number k). tfrecord, arrayrecord: records with `image` and `label`, as TFDS writes them
    too, or `image/encoded` and `image/class/label` (1..1000), in files with train or val or validation in their names
    or in a folder of that name. auto looks."""

    title: ClassVar[str] = "imagenet"
    published: ClassVar[tuple[str, ...]] = ("train", "val")

    def __post_init__(self):
        super().__post_init__()
        check_choice("layout", self.layout, LAYOUTS)

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.root is None or self._layout() != "folder":
            return tuple(map(str, range(1000)))
        return class_folders(Path(self.root) / "train")

    def encoded(self, split: str) -> EncodedImages:
        return in_turns(self._files(split)) if self._layout() == "folder" else self._records(split)

    def _layout(self) -> str:
        """The layout, found by looking when it is auto."""
        root = root_of(self.root, "imagenet")
        if self.layout != "auto":
            return self.layout
        if (root / "train").is_dir() and subfolders(root / "train", "one folder per class"):
            return "folder"
        return "arrayrecord" if is_array_record(record_paths(root, "train")[0]) else "tfrecord"

    def _records(self, split: str) -> EncodedImages:
        paths = record_paths(root_of(self.root, self.title), split)
        missing = check_numbered(paths, skip_corrupt=self.skip_corrupt)
        kind = TFRecordFiles if self._layout() == "tfrecord" else ArrayRecordFiles
        files = kind(paths, skip_corrupt=self.skip_corrupt)
        files.left_out.extend(missing)
        return encoded_records(files, 1000)

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


def encoded_records(files: TFRecordFiles | ArrayRecordFiles, classes: int) -> EncodedImages:
    """The photographs of `files`, whose records are of any of the three dialects."""

    def read(i: int) -> Encoded:
        return encoded_image(Example(files.read(i), files.where(i)), classes)

    return EncodedImages(len(files), read, files.where, left_out=tuple(files.left_out))


def encoded_image(example: Example, classes: int) -> Encoded:
    """The photograph of a record in any of the three dialects; DataError for a label of no class."""
    slim = "image/encoded" in example
    image = example.bytes("image/encoded" if slim else "image")
    label = example.integer("image/class/label") - 1 if slim else example.integer("label")
    if not 0 <= label < classes:
        expected = f"1..{classes}" if slim else f"0..{classes - 1}"
        raise DataError(f"{example.where}: label {label + slim}, expected {expected}")
    return Encoded(image, label)
