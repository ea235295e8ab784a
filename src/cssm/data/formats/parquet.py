"""Labelled images in Parquet files as the Hugging Face hub has them: an `image` struct of bytes and path, a `label`.

Rows are read by row group: one after the other that is fast; at random a whole group, often a hundred images, is read
for each one. Pack such a set once for training (`cssm data pack parquet`).
"""

import dataclasses
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cssm.core.errors import DataError, UsageError

from ..dataset import DATASETS, root_of
from .folders import check_numbered, folder, listing
from .images import LARGEST_FILE
from .photographs import Encoded, EncodedImages, Photographs

SPLITS = {"train": ("train",), "val": ("validation", "valid", "val"), "test": ("test",)}  # by the names of files
KEPT = 4  # row groups
LARGEST_GROUP = 2**32  # bytes, unpacked
MOST_CLASSES = 100_000


@DATASETS.register("parquet")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetImages(Photographs):
    """Images as the Hugging Face hub has them: {train,validation,test}-*.parquet in ROOT or ROOT/data.

    A row has an image, a struct of `bytes` (PNG or JPEG) and `path`, and a label. Classes have the names that the hub's
    metadata in the files give, or are numbered up to the largest label of train. The order is that of the files. A row
    is read with its whole row group: pack the set for training. Raises UsageError where PyArrow is not installed (pip
    install 'cssm[parquet]'); `source` and reading raise DataError for missing, truncated or foreign files and labels
    of no class.
    """

    image_column: str = "image"
    """The column of images."""
    label_column: str = "label"
    """The column of labels."""

    title: ClassVar[str] = "parquet"

    @property
    def published(self) -> tuple[str, ...]:
        if self.root is None:
            return ("train", "val")
        found = {split_of(path) for path in self._listing()}
        return tuple(split for split in SPLITS if split in found)

    @property
    def class_names(self) -> tuple[str, ...]:
        root_of(self.root, self.title)
        files = self._files(self.published[0])
        if names := files.class_names(self.label_column):
            return names
        largest = int(files.labels(self.label_column).max())
        if largest >= MOST_CLASSES:
            raise DataError(f"{self.root}: label {largest}, expected fewer than {MOST_CLASSES} classes")
        return tuple(map(str, range(largest + 1)))

    def encoded(self, split: str) -> EncodedImages:
        files, classes = self._files(split), self.num_classes
        labels = files.labels(self.label_column)
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if wrong.size:
            at = int(wrong[0])
            unlabelled = ": a split without labels" if (labels == -1).all() else ""
            raise DataError(f"{files.where(at)}: label {labels[at]}, expected 0..{classes - 1}{unlabelled}")

        def read(i: int) -> Encoded:
            return Encoded(files.image(i, self.image_column), int(labels[i]))

        return EncodedImages(len(labels), read, files.where, labels.astype(np.int32), tuple(files.left_out))

    def _files(self, split: str) -> "ParquetFiles":
        paths = [path for path in self._listing() if split_of(path) == split]
        left_out = check_numbered(paths, skip_corrupt=self.skip_corrupt)
        return ParquetFiles(paths, (self.image_column, self.label_column), left_out)

    def _listing(self) -> list[Path]:
        root = folder(root_of(self.root, self.title), "parquet files")
        base = root / "data" if (root / "data").is_dir() else root
        what = "train-*.parquet, validation-*.parquet, test-*.parquet"
        found = [path for path in listing(base, (".parquet",), what) if split_of(path)]
        if not found:
            raise DataError(f"{base}: no parquet file with train, validation or test before its first dash: {what}")
        return found


def split_of(path: Path) -> str | None:
    """The split that a file is of by its name.

    >>> [split_of(Path(name)) for name in ("train-00000-of-00014.parquet", "validation.parquet", "part-0.parquet")]
    ['train', 'val', None]
    """
    word = re.split(r"[-_.]", path.name)[0].lower()
    return next((split for split, words in SPLITS.items() if word in words), None)


class ParquetFiles:
    """The rows of several Parquet files, in order, by number; safe to use from several threads.

    Raises UsageError where PyArrow is not installed, DataError for a file that is no Parquet file or lacks `columns`.
    """

    def __init__(self, paths: Sequence[Path], columns: tuple[str, str], left_out: Sequence[str] = ()):
        self.paths, self.left_out = list(paths), list(left_out)
        self._about = [self._opened(path, columns) for path in paths]
        groups = [(f, g, m.row_group(g).num_rows) for f, m in enumerate(self._about) for g in range(m.num_row_groups)]
        self._groups = [(file, group) for file, group, _ in groups]
        self._starts = np.cumsum([0, *(rows for _, _, rows in groups)])
        self._first = np.cumsum([0, *(about.num_rows for about in self._about)])
        self._cache: OrderedDict[int, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()
        if not self._starts[-1]:
            raise DataError(f"{self.paths[0]}: no row in it and the files beside it")

    def _opened(self, path: Path, columns: tuple[str, str]) -> Any:
        """The metadata of a file whose columns are those expected."""
        arrow, parquet = pyarrow()
        try:
            with parquet.ParquetFile(path) as file:
                schema, about = file.schema_arrow, file.metadata
        except (OSError, arrow.ArrowException) as error:
            raise DataError(f"{path}: not a whole Parquet file ({_first_line(error)}): copy it again") from error
        for column, option in zip(columns, ("image_column", "label_column"), strict=True):
            if column not in schema.names:
                raise DataError(f"{path}: no column {column!r}, it has {', '.join(schema.names)}: give {option}")
        image, label = (schema.field(column).type for column in columns)
        data = (
            image.field("bytes").type if arrow.types.is_struct(image) and image.get_field_index("bytes") >= 0 else None
        )
        if data not in (arrow.binary(), arrow.large_binary()):
            raise DataError(f"{path}: column {columns[0]!r} is {image}, expected a struct of bytes and path")
        if not arrow.types.is_integer(label):
            raise DataError(f"{path}: column {columns[1]!r} is {label}, expected integers")
        return about

    def __len__(self) -> int:
        return int(self._starts[-1])

    def where(self, i: int) -> str:
        """File and number of row i, as errors name it."""
        file = int(np.searchsorted(self._first, i, "right")) - 1
        return f"{self.paths[file]}, row {i - self._first[file]}"

    def class_names(self, column: str) -> tuple[str, ...]:
        """The names in the hub's metadata of the first file; none where it has none."""
        stored = (self._about[0].metadata or {}).get(b"huggingface", b"{}")
        try:
            names = json.loads(stored)["info"]["features"][column]["names"]
            ok = isinstance(names, list) and all(isinstance(name, str) for name in names)
            return tuple(names) if ok and len(set(names)) == len(names) else ()
        except (ValueError, KeyError, TypeError, RecursionError):
            return ()

    def labels(self, column: str) -> np.ndarray:
        """All labels (n,) int64."""
        arrow, parquet = pyarrow()
        parts = []
        for path, about, first in zip(self.paths, self._about, self._first, strict=False):
            try:
                with parquet.ParquetFile(path, metadata=about) as file:
                    values = file.read([column], use_threads=False)[column]
            except (OSError, arrow.ArrowException) as error:
                raise DataError(f"{path}: its labels cannot be read ({_first_line(error)})") from error
            if values.null_count:
                at = int(np.flatnonzero(values.is_null().to_numpy())[0])
                raise DataError(f"{self.where(int(first) + at)}: no label")
            parts.append(values.to_numpy().astype(np.int64))
        labels = np.concatenate(parts)
        if len(labels) != len(self):
            raise DataError(f"{self.paths[0].parent}: {len(labels)} labels in files of {len(self)} rows: damaged")
        return labels

    def image(self, i: int, column: str) -> bytes:
        """The encoded image of row i. Raises DataError naming file and row."""
        number = int(np.searchsorted(self._starts, i, "right")) - 1
        rows, at = self._group(number, column), int(i - self._starts[number])
        if at >= len(rows):
            raise DataError(f"{self.where(i)}: its row group has {len(rows)} rows only: damaged")
        data = rows[at].as_py()
        if not data:
            raise DataError(f"{self.where(i)}: no bytes in column {column!r}: a set of paths alone, or damaged")
        if len(data) > LARGEST_FILE:
            raise DataError(f"{self.where(i)}: an image of {len(data)} bytes, more than {LARGEST_FILE}")
        return data

    def _group(self, number: int, column: str) -> Any:
        """The bytes of the images of a row group, from the cache, or read by the first thread that asks."""
        with self._lock:
            found = self._cache.get(number)
            mine = found is None
            if found is None:
                found = self._cache[number] = Future()
                while len(self._cache) > KEPT:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(number)
        if mine:
            try:
                found.set_result(self._read(number, column))
            except BaseException as error:
                with self._lock:
                    self._cache.pop(number, None)
                found.set_exception(error)
        return found.result()

    def _read(self, number: int, column: str) -> Any:
        arrow, parquet = pyarrow()
        file, group = self._groups[number]
        path, about = self.paths[file], self._about[file]
        if about.row_group(group).total_byte_size > LARGEST_GROUP:
            size = about.row_group(group).total_byte_size
            raise DataError(f"{path}, row group {group}: {size} bytes, more than {LARGEST_GROUP}: write smaller ones")
        try:
            with parquet.ParquetFile(path, metadata=about) as opened:
                table = opened.read_row_group(group, columns=[f"{column}.bytes"], use_threads=False)
            return table.column(0).combine_chunks().field("bytes")
        except (OSError, arrow.ArrowException) as error:
            raise DataError(f"{path}, row group {group}: cannot be read ({_first_line(error)})") from error


def pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet; UsageError where they are not installed."""
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError("data set parquet needs PyArrow: pip install 'cssm[parquet]'") from error
    return pyarrow, pyarrow.parquet


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
