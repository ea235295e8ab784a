"""Data: synthetic tasks made on the fly, published file formats, and the loader; NumPy only, no JAX.

Adding a data set is adding a file with a frozen configuration that has `.source(split, ...)`, and one line here.
"""

from pathlib import Path
from typing import Any

from cssm.core.errors import UsageError
from cssm.core.registry import Registry

from .digits import Digits
from .featuretracker import FeatureTracker
from .formats.imagefolder import ImageFolder, Imagenette
from .formats.imagenet import ImageNet
from .formats.pathfinder import PathfinderFiles
from .formats.pathtracker import PathTrackerFiles
from .formats.stored import StoredFiles
from .loader import Batches, loader
from .pathfinder import Pathfinder
from .pathtracker import PathTracker
from .source import IMAGENET_MEAN, IMAGENET_STD, Source, Subset, with_options

datasets: Registry[type] = Registry("dataset")
datasets.register("pathtracker")(PathTracker)
datasets.register("pathfinder")(Pathfinder)
datasets.register("featuretracker")(FeatureTracker)
datasets.register("digits")(Digits)


# read from files: the first option is `root`
file_datasets: Registry[type] = Registry("dataset of files")
for _name, _files in (
    ("pathtracker", PathTrackerFiles), ("pathfinder", PathfinderFiles), ("imagenet", ImageNet),
    ("imagenette", Imagenette), ("imagefolder", ImageFolder), ("stored", StoredFiles),
):  # fmt: skip
    file_datasets.register(_name)(_files)


def list_datasets() -> list[str]:
    """Names that `create_dataset` knows without files."""
    return datasets.names()


def create_dataset(name: str, *, data_dir: str | Path | None = None, **options: Any) -> Any:
    """The configuration of data set `name`; call `.source(split, ...)` on it.

    Args:
        name: without `data_dir` one of `datasets`, with it one of `file_datasets`.
        data_dir: where the published files are; None generates.
        options: fields of the data set's dataclass.

    Raises UnknownNameError for an unknown name or option, UsageError for a bad value or a data set that has only
    files, DataError (from `source`) for files that are missing or not what they claim to be.

    >>> create_dataset("pathtracker", frames=8).source("val", size=10)[0]["input"].shape
    (8, 32, 32, 3)
    """
    if data_dir is not None:
        return with_options(file_datasets[name], name, {"root": Path(data_dir), **options})
    if name in file_datasets.names() and name not in datasets.names():
        raise UsageError(f"data set {name!r} is read from files: give data_dir")
    return with_options(datasets[name], name, options)


__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "Batches", "Digits", "FeatureTracker", "ImageFolder", "ImageNet", "Imagenette",
    "PathTracker", "PathTrackerFiles", "Pathfinder", "PathfinderFiles", "Source", "StoredFiles", "Subset",
    "create_dataset", "datasets", "file_datasets", "list_datasets", "loader",
]  # fmt: skip
