"""Published Pathfinder files: folders of PNG, TFRecords, and the LRA folders with their text metadata."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from cssm.core.errors import DataError

from ..source import IMAGENET_MEAN, IMAGENET_STD, Sample, Source, check_choice, check_range
from .example import Example
from .images import denormalise, read_image
from .records import FileSource, cut, folder, inside, listing, take
from .tfrecord import TFRecordFiles

LAYOUTS = ("png", "tfrecord", "lra")
LRA_FOLDERS = {6: "curv_baseline", 9: "curv_contour_length_9", 14: "curv_contour_length_14"}
LARGEST = 4096  # px of a side
LINE_BYTES = 100_000_000  # of one metadata file


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathfinderFiles:
    """Pathfinder from files.

    Args:
        root: the data folder.
        layout: `png`: ROOT/curv_contour_length_{d}/imgs/{neg,pos}/*.png. `tfrecord`:
            ROOT/difficulty_{d}/{train,val,test}/shard_%05d.tfrecord. `lra`: ROOT/curv_baseline (d = 6) or
            ROOT/curv_contour_length_{d}, with metadata/*.npy (text) naming the images and their labels.
        difficulty: the d of the layout.
        size: height and width to resize PNGs to; None keeps the stored size (TFRecords always do).
        skip_corrupt: leave unreadable images out, counted and logged, instead of raising.

    PNG and LRA sets are cut 80/10/10 by a permutation of seed 42 over the listing, negatives first.
    Raises UsageError for a bad option; `source` and reading raise DataError for missing, truncated or foreign files.
    """

    root: Path
    layout: Literal["png", "tfrecord", "lra"] = "png"
    difficulty: int = 14
    size: int | None = None
    skip_corrupt: bool = False

    def __post_init__(self):
        check_choice("layout", self.layout, LAYOUTS)
        if self.layout == "lra":
            check_choice("difficulty of LRA", self.difficulty, tuple(LRA_FOLDERS))
        check_range("size", 1 if self.size is None else self.size, 1, LARGEST)

    @property
    def num_classes(self) -> int:
        return 2

    def source(self, split: str = "train", *, size: int | None = None, seed: int = 42) -> Source:
        """A split, or its first `size` samples; `seed` of the permutation that cuts PNG and LRA sets."""
        check_choice("split", split, ("train", "val", "test"))
        if self.layout == "tfrecord":
            return take(self._records(split), size)
        files = self._png() if self.layout == "png" else self._lra()
        return take(cut(self._images(files), split, seed=seed), size)

    def _images(self, files: list[tuple[Path, int]]) -> FileSource:
        def read(i: int) -> Sample:
            path, label = files[i]
            return {"input": read_image(path, size=self.size), "label": np.int32(label)}

        return FileSource(len(files), read, lambda i: str(files[i][0]), skip_corrupt=self.skip_corrupt)

    def _png(self) -> list[tuple[Path, int]]:
        base = Path(self.root) / f"curv_contour_length_{self.difficulty}" / "imgs"
        names = (("neg", 0), ("pos", 1))
        return [(path, label) for name, label in names for path in listing(base / name, (".png",), "Pathfinder images")]

    def _lra(self) -> list[tuple[Path, int]]:
        base = Path(self.root) / LRA_FOLDERS[self.difficulty]
        files = listing(base / "metadata", (".npy",), "LRA metadata")
        return [entry for path in files for entry in lra_metadata(path, base)]

    def _records(self, split: str) -> FileSource:
        where = Path(self.root) / f"difficulty_{self.difficulty}" / split
        files = TFRecordFiles(listing(where, (".tfrecord",), "Pathfinder shards"), skip_corrupt=self.skip_corrupt)

        def read(i: int) -> Sample:
            return image_sample(Example(files.read(i), files.where(i)))

        return FileSource(
            len(files), read, files.where, skip_corrupt=self.skip_corrupt, already_left_out=files.left_out
        )


def image_sample(example: Example) -> Sample:
    """The sample of a Pathfinder record: `image` raw float32 (h, w, 3), ImageNet-normalised, back in uint8."""
    shape = checked_shape(example, ("height", "width", "channels"))
    image = denormalise(example.array("image", "float32", shape), IMAGENET_MEAN, IMAGENET_STD, example.where)
    sample = {"input": image, "label": binary_label(example)}
    return with_markers(sample, example)


def with_markers(sample: Sample, example: Example) -> Sample:
    """`sample` with the `markers` feature of files that `cssm.data.make` wrote."""
    if "markers" not in example:
        return sample
    return {**sample, "markers": example.floats("markers", 4).reshape(2, 2)}


def checked_shape(example: Example, keys: tuple[str, ...]) -> tuple[int, ...]:
    """The sizes stored under `keys`, the last being channels, which must be 3."""
    shape = tuple(example.integer(key) for key in keys)
    if not all(1 <= side <= LARGEST for side in shape) or shape[-1] != 3:
        raise DataError(f"{example.where}: sizes {dict(zip(keys, shape, strict=True))}, expected 1..{LARGEST} and 3")
    return shape


def binary_label(example: Example) -> np.int32:
    label = example.integer("label")
    if label not in (0, 1):
        raise DataError(f"{example.where}: label {label}, expected 0 or 1")
    return np.int32(label)


def lra_metadata(path: Path, base: Path) -> list[tuple[Path, int]]:
    """(image, label) of an LRA metadata file, which is text in spite of its name: "folder file number label ...".

    Raises DataError naming file and line when it is not, or when a path leads out of `base`.
    """
    if path.stat().st_size > LINE_BYTES:
        raise DataError(f"{path}: more than {LINE_BYTES} bytes, expected a list of images")
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text, expected lines of 'folder file number label ...'") from error
    out = []
    for number, line in enumerate(lines):
        where, words = f"{path}, line {number + 1}", line.split()
        if len(words) < 4 or words[3] not in ("0", "1"):
            raise DataError(f"{where}: expected 'folder file number label ...' with label 0 or 1")
        out.append((inside(folder(base, "an LRA set"), f"{words[0]}/{words[1]}", where), int(words[3])))
    return out
