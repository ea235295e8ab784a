"""Data sets by name: generated, or read from a folder, whichever of the known forms it holds."""

import dataclasses
from pathlib import Path
from typing import Any

from cssm.core.errors import DataError, UsageError

from .dataset import DATASETS, DataSet, is_files, with_options
from .formats.manifest import is_packed, made_folder
from .formats.packed import PackedImages, check_packed
from .formats.photographs import Photographs
from .formats.stored import StoredFiles, open_made


def create_dataset(name: str, *, data_dir: str | Path | None = None, **options: Any) -> DataSet:
    """The data set `name`; call `.source(split, ...)` on it.

    Args:
        name: one of `list_datasets()`.
        data_dir: the folder with its published files or with what `cssm data make` wrote (see `open_files`). None
            generates it, where it can be generated.
        options: fields of the data set's dataclass.

    Raises UnknownNameError for an unknown name or option, UsageError for a bad value or a set that has no files,
    DataError for a folder that is missing or holds none of the known layouts.

    >>> create_dataset("pathtracker", frames=8).source("val", size=10)[0]["input"].shape
    (8, 32, 32, 3)
    """
    if data_dir is not None:
        return open_files(Path(data_dir), name, **options)
    return with_options(DATASETS[name], name, options)


def open_files(root: Path, name: str, **options: Any) -> DataSet:
    """The data set that reads `name` from the folder `root`: published files, or a set that `cssm data make` wrote.

    A made set is known by its metadata.json and is read as it was made: `options` that say otherwise are refused.
    Photographs that `cssm data pack` wrote are known by theirs, and take the options of how photographs are seen.
    Published files are read by the data set `{name}_files`, or `name` itself where it is a set of files.

    Raises UsageError when `name` has no files to read or `root` was made with other options, UnknownNameError for an
    unknown option, DataError when there is no such folder.

    >>> import tempfile
    >>> from cssm.data.make import make
    >>> folder = make(DATASETS["pathtracker"](frames=8), out=Path(tempfile.mkdtemp()), splits={"val": 3})
    >>> open_files(folder, "pathtracker", frames=8).sample_spec["input"]
    Spec(shape=(8, 32, 32, 3), dtype='uint8')
    """
    root, kind = Path(root), files_class(root, name, options.get("difficulty"))
    if kind is StoredFiles:
        return open_made(root, DATASETS.canonical(name), options)
    return with_options(kind, name, {**options, "root": root})


def moved(data: Any, root: Path) -> Any:
    """`data` with its files in another folder; photographs may be packed there.

    Raises UsageError when the folder holds another set, packed, or the same with other labels.
    """
    if not isinstance(data, Photographs) or isinstance(data, PackedImages) or not is_packed(root):
        return dataclasses.replace(data, root=root)
    check_packed(root, data.title)
    shared = {field.name for field in dataclasses.fields(Photographs)} - {"root"}
    packed = PackedImages(root=root, **{name: getattr(data, name) for name in shared})
    labels = packed.metadata()["options"].get("labels")
    if labels != getattr(data, "labels", labels):
        raise UsageError(f"{root} was packed with labels {labels}, not {getattr(data, 'labels', None)}: pack it again")
    return packed


def files_class(root: Path, name: str, difficulty: int | None = None) -> type[DataSet]:
    """The class that reads `name` from `root`; errors as `open_files`."""
    name = DATASETS.canonical(name)
    if not root.is_dir():
        raise DataError(f"no folder {root}: give the data set's folder as --data-dir")
    if issubclass(DATASETS[name], Photographs) and is_packed(root):
        check_packed(root, name)
        return PackedImages
    if is_files(DATASETS[name]):
        return DATASETS[name]
    if made_folder(root, difficulty) is not None:
        return StoredFiles
    if f"{name}_files" in DATASETS:
        return DATASETS[f"{name}_files"]
    raise UsageError(
        f"data set {name!r} has no published files to read and {root} holds none that `cssm data make` wrote: "
        "leave out --data-dir to generate it"
    )
