"""Folders of photographs, one folder per class: any such set, and Imagenette."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cssm.core.errors import DataError

from ..source import Sample, Source, check_choice, check_range
from .images import read_image
from .records import FileSource, folder, listing, take

SUFFIXES = (".jpg", ".jpeg", ".png")
# wnid -> ImageNet class, in the order of Imagenette's own classes
IMAGENETTE = {
    "n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497,
    "n03394916": 566, "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """ROOT/{train,val,test}/CLASS/*.{jpg,jpeg,png}; classes are numbered by the sorted folder names of train.

    Args:
        root: the data folder.
        size: height and width: the short side is scaled to it and the centre cut out.
        skip_corrupt: leave unreadable images out, counted and logged, instead of raising.

    `source` and reading raise DataError for missing folders, unknown classes and files that are no images.
    """

    root: Path
    size: int = 224
    skip_corrupt: bool = False

    def __post_init__(self):
        check_range("size", self.size, 1, 4096)

    @property
    def class_names(self) -> tuple[str, ...]:
        return class_folders(Path(self.root) / "train")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def source(self, split: str = "train", *, size: int | None = None, seed: int = 0) -> Source:
        """A split, or its first `size` samples in the order of a permutation by `seed`."""
        check_choice("split", split, ("train", "val", "test"))
        labels = {name: i for i, name in enumerate(self.class_names)}
        files = labelled_files(Path(self.root) / split, labels)
        return image_source(files, self.size, self.skip_corrupt, size, seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imagenette:
    """Imagenette: ten easy classes of ImageNet, ROOT/imagenette2[-160|-320]/{train,val}/WNID/*.JPEG.

    Args:
        root: the folder that holds imagenette2*, or that folder itself.
        size: height and width: the short side is scaled to it and the centre cut out.
        labels: `own`: 0..9. `imagenet`: the numbers of the same classes among ImageNet's 1000.
        skip_corrupt: leave unreadable images out, counted and logged, instead of raising.

    `source` and reading raise DataError for missing folders, other classes and files that are no images.
    """

    root: Path
    size: int = 160
    labels: Literal["own", "imagenet"] = "own"
    skip_corrupt: bool = False

    def __post_init__(self):
        check_choice("labels", self.labels, ("own", "imagenet"))
        check_range("size", self.size, 1, 4096)

    @property
    def num_classes(self) -> int:
        return 10 if self.labels == "own" else 1000

    def source(self, split: str = "train", *, size: int | None = None, seed: int = 0) -> Source:
        """A split, or its first `size` samples in the order of a permutation by `seed`."""
        check_choice("split of Imagenette", split, ("train", "val"))
        numbers = IMAGENETTE if self.labels == "imagenet" else {name: i for i, name in enumerate(IMAGENETTE)}
        return image_source(labelled_files(self._base() / split, numbers), self.size, self.skip_corrupt, size, seed)

    def _base(self) -> Path:
        root = Path(self.root)
        names = ("imagenette2", "imagenette2-320", "imagenette2-160", ".")
        for name in names:
            if (root / name / "train").is_dir():
                return root / name
        raise DataError(f"{root}: no imagenette2, imagenette2-320 or imagenette2-160 with a train folder")


def class_folders(path: Path) -> tuple[str, ...]:
    """Sorted names of the folders in `path`; DataError when there is none."""
    names = sorted(p.name for p in folder(path, "one folder per class").iterdir() if p.is_dir())
    if not names:
        raise DataError(f"{path}: no folder in it, expected one per class")
    return tuple(names)


def labelled_files(path: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    """(image, label) of all classes in `path`; DataError for a class that is not in `labels`."""
    out = []
    for name in class_folders(path):
        if name not in labels:
            raise DataError(f"{path / name}: not one of the {len(labels)} known classes")
        out += [(file, labels[name]) for file in listing(path / name, SUFFIXES, "images of a class")]
    return out


def image_source(
    files: Sequence[tuple[Path, int]], size: int, skip_corrupt: bool, count: int | None, seed: int
) -> Source:
    """The photographs at `files`, shuffled once by `seed` so that the first `count` are of all classes."""
    order = np.random.RandomState(seed).permutation(len(files))

    def read(i: int) -> Sample:
        path, label = files[order[i]]
        return {"input": read_image(path, size=size, crop=True), "label": np.int32(label)}

    return take(FileSource(len(files), read, lambda i: str(files[order[i]][0]), skip_corrupt=skip_corrupt), count)
