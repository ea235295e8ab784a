"""Folders of photographs, one folder per class: one's own, and Imagenette."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cssm.core.errors import DataError, UsageError

from ..dataset import DATASETS, root_of
from ..source import check_choice
from .folders import folder, listing, subfolders
from .images import read_encoded
from .photographs import Encoded, EncodedImages, Photographs

SUFFIXES = (".jpg", ".jpeg", ".png")
SPLITS = ("train", "val", "test")
# wnid -> (ImageNet class, name), in the order of Imagenette's own classes
IMAGENETTE = {
    "n01440764": (0, "tench"), "n02102040": (217, "English springer"), "n02979186": (482, "cassette player"),
    "n03000684": (491, "chain saw"), "n03028079": (497, "church"), "n03394916": (566, "French horn"),
    "n03417042": (569, "garbage truck"), "n03425413": (571, "gas pump"), "n03445777": (574, "golf ball"),
    "n03888257": (701, "parachute"),
}  # fmt: skip


@DATASETS.register("images")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder(Photographs):
    """Photographs in folders: ROOT/{train,val,test}/CLASS/*.{jpg,jpeg,png}, or ROOT/CLASS/*.{jpg,jpeg,png} alone.

    Classes are numbered by the sorted names of their folders. Without a train folder each class is cut by a fixed
    permutation (seed 42): a tenth, at least one, for val, as much for test. A split comes in turns, one of each class
    after the other, by file name, so that its first samples are of all classes. Photographs are turned upright as
    their EXIF orientation says.

    `source` and reading raise DataError for missing folders, unknown classes and files that are no images.

    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> for i, name in enumerate(("ant", "bee")):
    ...     (root / name).mkdir()
    ...     for n in range(10):
    ...         Image.new("RGB", (32, 24), (100 * i + n,) * 3).save(root / name / f"{n}.png")
    >>> data = ImageFolder(root=root, size=16)
    >>> data.class_names, [len(data.source(split)) for split in data.splits]
    (('ant', 'bee'), [16, 2, 2])
    """

    holdout: float = 0.0
    """Fraction of train that becomes val, where ROOT has a train folder and not all three; a val folder is then
    test, unless there is a test folder."""

    title: ClassVar[str] = "images"

    @property
    def published(self) -> tuple[str, ...]:
        found = self._folders()
        if not found and self.holdout:
            cut = "class folders alone are cut 80/10/10"
            raise UsageError(f"holdout is for photographs in a train folder: {cut}; leave it out")
        return found or SPLITS

    @property
    def class_names(self) -> tuple[str, ...]:
        root = root_of(self.root, self.title)
        return class_folders(root / "train" if self._folders() else root)

    def encoded(self, split: str) -> EncodedImages:
        root = root_of(self.root, self.title)
        labels = {name: i for i, name in enumerate(self.class_names)}
        if self._folders():
            return in_turns(labelled_files(root / split, labels, self.skip_corrupt))
        return in_turns([part_of(images, split) for images in labelled_files(root, labels, self.skip_corrupt)])

    def _folders(self) -> tuple[str, ...]:
        """The split folders of ROOT; none when it holds the classes themselves."""
        root = folder(root_of(self.root, self.title), "train, val and test, or one folder per class")
        found = tuple(split for split in SPLITS if (root / split).is_dir())
        if found and "train" not in found:
            raise DataError(f"{root}: has {' and '.join(found)} but no train folder")
        return found


@DATASETS.register("imagenette")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Imagenette(Photographs):
    """Imagenette: ten easy classes of ImageNet, ROOT/imagenette2[-160|-320]/{train,val}/WNID/*.JPEG.

    A split comes in turns, one of each class after the other, by file name. `source` and reading raise DataError for
    missing folders, other classes and files that are no images.

    >>> Imagenette().class_names[:2], Imagenette(holdout=0.1).splits
    (('tench', 'English springer'), ('train', 'val', 'test'))
    """

    root: Path | None = None
    """The folder that holds imagenette2*, or that folder itself."""
    size: int = 160
    """Height and width, px."""
    labels: Literal["own", "imagenet"] = "own"
    """own: 0..9. imagenet: the numbers of the same classes among ImageNet's 1000."""

    title: ClassVar[str] = "imagenette"
    published: ClassVar[tuple[str, ...]] = ("train", "val")

    def __post_init__(self):
        super().__post_init__()
        check_choice("labels", self.labels, ("own", "imagenet"))

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.labels == "own":
            return tuple(name for _, name in IMAGENETTE.values())
        return tuple(dict(IMAGENETTE.values()).get(i, str(i)) for i in range(1000))

    def encoded(self, split: str) -> EncodedImages:
        labels = {wnid: i if self.labels == "own" else IMAGENETTE[wnid][0] for i, wnid in enumerate(IMAGENETTE)}
        return in_turns(labelled_files(_base(root_of(self.root, self.title)) / split, labels, self.skip_corrupt))


def _base(root: Path) -> Path:
    for name in ("imagenette2", "imagenette2-320", "imagenette2-160", "."):
        if (root / name / "train").is_dir():
            return root / name
    raise DataError(f"{root}: no imagenette2, imagenette2-320 or imagenette2-160 with a train folder")


def class_folders(path: Path) -> tuple[str, ...]:
    """Sorted names of the folders in `path`, hidden ones left out; DataError when there is none."""
    names = [p.name for p in subfolders(path, "one folder per class")]
    if not names:
        raise DataError(f"{path}: no folder in it, expected one per class")
    return tuple(names)


def labelled_files(path: Path, labels: dict[str, int], skip_corrupt: bool = False) -> list[list[tuple[Path, int]]]:
    """The (image, label) of every class in `path`, by name; DataError when its classes are not those in `labels`.

    With skip_corrupt links that lead nowhere are listed, to be counted as left out when they are read.
    """
    out, names = [], class_folders(path)
    check_classes(path, names, labels)
    for name in names:
        files = listing(path / name, SUFFIXES, "images of a class", dangling=skip_corrupt)
        out.append([(file, labels[name]) for file in files])
    return out


def check_classes(path: Path, found: Sequence[str], known: Iterable[str]) -> None:
    """DataError naming the classes of `found` that are not `known`, and those that are missing."""
    unknown, missing = sorted(set(found) - set(known)), sorted(set(known) - set(found))
    wrong = [f"{what}: {_some(names)}" for what, names in (("unknown", unknown), ("missing", missing)) if names]
    if wrong:
        expected = f"expected a folder for each of the {len(set(known))} classes, as in train"
        raise DataError(f"{path}: other class folders, {'; '.join(wrong)}: {expected}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def part_of(images: Sequence[tuple[Path, int]], split: str) -> list[tuple[Path, int]]:
    """The part of one class that is train, val or test, by name; DataError when the class has too few images."""
    held = max(1, round(len(images) / 10))
    if len(images) < 3:
        raise DataError(f"{images[0][0].parent}: {len(images)} images, train, val and test need at least 3 of a class")
    order = np.random.RandomState(42).permutation(len(images))
    at = {"train": order[2 * held :], "val": order[:held], "test": order[held : 2 * held]}[split]
    return [images[i] for i in sorted(at)]


def in_turns(classes: Sequence[Sequence[tuple[Path, int]]]) -> EncodedImages:
    """The photographs of `classes` in turns: the first of each class, the second of each, and so on."""
    turns = range(max(map(len, classes)))
    files = [images[turn] for turn in turns for images in classes if turn < len(images)]

    def read(i: int) -> Encoded:
        path, label = files[i]
        return Encoded(read_encoded(path), label)

    labels = np.array([label for _, label in files], np.int32)
    return EncodedImages(len(files), read, lambda i: str(files[i][0]), labels)
