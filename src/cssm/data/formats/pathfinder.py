"""Published Pathfinder files: folders of PNG, TFRecords, and the LRA folders with their text metadata."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from cssm.core.errors import DataError

from ..dataset import DATASETS, DataSet, Spec, check_split, root_of, spec_of
from ..pathfinder import Pathfinder
from ..source import IMAGENET_MEAN, IMAGENET_STD, Sample, Source, Subset, check_choice, check_range, take
from .example import Example
from .folders import folder, is_record, listing
from .images import decode_image, denormalise, read_image, resize_image
from .records import FileSource, cut, find_layout, first_sample, inside, record_source
from .tfrecord import TFRecordFiles

LAYOUTS = ("auto", "png", "tfrecord", "lra", "tfds")
LRA_FOLDERS = {6: "curv_baseline", 9: "curv_contour_length_9", 14: "curv_contour_length_14"}
TFDS_SPLITS = {6: "easy", 9: "intermediate", 14: "hard"}
LARGEST = 4096  # px of a side
LINE_BYTES = 100_000_000  # of one metadata file


@DATASETS.register("pathfinder_files")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PathfinderFiles(DataSet):
    """Pathfinder from published files.

    PNG and LRA sets are cut 80/10/10 by a permutation of seed 42 over the listing, negatives first, and come in its
    order; TFRecords are cut as they were published and come in the order of the shards (tfds: the first 80% are train,
    the next 10% val, as LRA's own pipeline cuts them). Raises UsageError for a bad
    option; `source` and reading raise DataError for missing, truncated or foreign files.
    """

    root: Path | None = None
    """The data folder."""
    layout: Literal["auto", "png", "tfrecord", "lra", "tfds"] = "auto"
    """png: ROOT/curv_contour_length_{d}/imgs/{neg,pos}/*.png. tfrecord:
    ROOT/difficulty_{d}/{train,val,test}/shard_%05d.tfrecord. lra: ROOT/curv_baseline (d = 6) or
    ROOT/curv_contour_length_{d}, with metadata/*.npy (text) naming the images and their labels. tfds:
    *-{easy,intermediate,hard}.tfrecord-* (d = 6, 9, 14) in ROOT or its one SET/VERSION, records of an encoded
    `image` and a `label`. auto looks."""
    difficulty: int = 14
    """The d of the layout: paddles of a target contour."""
    size: int | None = None
    """Height and width to resize to, px, bilinearly; None keeps the stored size."""
    skip_corrupt: bool = False
    """Leave unreadable images out, counted and logged, instead of raising."""

    class_names: ClassVar[tuple[str, ...]] = Pathfinder.class_names
    baseline: ClassVar[str] = "markers"

    def __post_init__(self):
        check_choice("layout", self.layout, LAYOUTS)
        if self.layout in ("lra", "tfds"):
            check_choice(f"with layout {self.layout} difficulty", self.difficulty, tuple(LRA_FOLDERS))
        check_range("size", 1 if self.size is None else self.size, 1, LARGEST)

    @property
    def splits(self) -> tuple[str, ...]:
        if self.root is None or self._layout() != "tfrecord":
            return Pathfinder.splits
        return tuple(split for split in Pathfinder.splits if (self._shards() / split).is_dir())

    @property
    def sample_spec(self) -> dict[str, Spec]:
        root_of(self.root, "pathfinder")
        if self._layout() != "tfrecord":
            return spec_of(self.source("train", size=1)[0])
        paths = listing(self._shards() / self.splits[0], (".tfrecord",), "Pathfinder shards")
        return spec_of(first_sample(paths[0], self._resized, skip_corrupt=self.skip_corrupt))

    def source(self, split: str = "train", *, size: int | None = None, seed: int | None = None) -> Source:
        """A split, or its first `size` samples; a seed puts them in another order."""
        root_of(self.root, "pathfinder")
        layout = self._layout()
        check_split(self, "pathfinder", split)
        if layout == "tfrecord":
            return take(self._records(split), size, seed)
        if layout == "tfds":
            return take(self._tfds(split), size, seed)
        files = self._png() if layout == "png" else self._lra()
        return take(cut(self._images(files), split), size, seed)

    def _layout(self) -> str:
        """The layout, found by looking when it is auto."""
        if self.layout != "auto":
            return self.layout
        length = f"curv_contour_length_{self.difficulty}"
        lists = f"{LRA_FOLDERS.get(self.difficulty, length)}/metadata/*.npy"
        return find_layout(
            root_of(self.root, "pathfinder"),
            "pathfinder",
            {
                "tfrecord": tuple(f"difficulty_{self.difficulty}/{split}/*.tfrecord" for split in Pathfinder.splits),
                "png": (f"{length}/imgs/neg/*.png", f"{length}/imgs/pos/*.png"),
                "lra": (lists,),
                "tfds": tuple(up + self._tfds_name() for up in ("", "*/", "*/*/")),
            },
        )

    def _shards(self) -> Path:
        return root_of(self.root, "pathfinder") / f"difficulty_{self.difficulty}"

    def _images(self, files: list[tuple[Path, int]]) -> FileSource:
        def read(i: int) -> Sample:
            path, label = files[i]
            return {"input": read_image(path, size=self.size), "label": np.int32(label)}

        labels = np.array([label for _, label in files], np.int32)
        return FileSource(len(files), read, lambda i: str(files[i][0]), skip_corrupt=self.skip_corrupt, labels=labels)

    def _png(self) -> list[tuple[Path, int]]:
        base = root_of(self.root, "pathfinder") / f"curv_contour_length_{self.difficulty}" / "imgs"
        names = (("neg", 0), ("pos", 1))
        return [(path, label) for name, label in names for path in listing(base / name, (".png",), "Pathfinder images")]

    def _lra(self) -> list[tuple[Path, int]]:
        base = root_of(self.root, "pathfinder") / LRA_FOLDERS[self.difficulty]
        files = listing(base / "metadata", (".npy",), "LRA metadata")
        return [entry for path in files for entry in lra_metadata(path, base)]

    def _records(self, split: str) -> FileSource:
        paths = listing(self._shards() / split, (".tfrecord",), "Pathfinder shards")
        files = TFRecordFiles(paths, skip_corrupt=self.skip_corrupt)
        return record_source(files, self._resized, skip_corrupt=self.skip_corrupt)

    def _tfds_name(self) -> str:
        return f"*-{TFDS_SPLITS.get(self.difficulty, self.difficulty)}.tfrecord*"

    def _tfds(self, split: str) -> Source:
        root = root_of(self.root, "pathfinder")
        patterns = [up + self._tfds_name() for up in ("", "*/", "*/*/")]
        paths = sorted(path for pattern in patterns for path in root.glob(pattern) if is_record(path.name))
        if not paths or len({path.parent for path in paths}) > 1:
            found = f"in {len({path.parent for path in paths})} folders" if paths else "nowhere"
            raise DataError(f"{root}: {self._tfds_name()} is {found}, expected in one: give the folder that holds it")
        files = TFRecordFiles(paths, skip_corrupt=self.skip_corrupt)
        source = record_source(files, self._resized, skip_corrupt=self.skip_corrupt)
        val, test = len(source) * 8 // 10, len(source) * 9 // 10
        begin, end = {"train": (0, val), "val": (val, test), "test": (test, len(source))}[split]
        return Subset(source, np.arange(begin, end))

    def _resized(self, example: Example) -> Sample:
        sample = image_sample(example)
        height, width = sample["input"].shape[:2]
        if self.size is None or (height, width) == (self.size, self.size):
            return sample
        if "markers" in sample:
            scale = np.array([self.size / height, self.size / width], np.float32)
            sample["markers"] = sample["markers"] * scale
        return {**sample, "input": resize_image(sample["input"], self.size)}


def image_sample(example: Example) -> Sample:
    """The sample of a Pathfinder record: `image` raw float32 (h, w, 3), ImageNet-normalised, back in uint8.

    A record of TFDS has the `image` as PNG or JPEG, and no sizes.
    """
    if "height" not in example:
        image = decode_image(example.bytes("image"), example.where)
        return {"input": image, "label": label_below(example)}
    shape = checked_shape(example, ("height", "width", "channels"))
    image = denormalise(example.array("image", "float32", shape), IMAGENET_MEAN, IMAGENET_STD, example.where)
    sample = {"input": image, "label": label_below(example)}
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


def label_below(example: Example, classes: int = 2) -> np.int32:
    label = example.integer("label")
    if not 0 <= label < classes:
        raise DataError(f"{example.where}: label {label}, expected 0..{classes - 1}")
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
