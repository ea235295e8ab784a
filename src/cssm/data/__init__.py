"""Data: synthetic tasks made on the fly, published file formats, and the loader; NumPy only, no JAX.

Adding a data set is adding a file with a frozen configuration that has `.source(split, ...)`, and one line here.
"""

from typing import Any

from cssm.core.registry import Registry

from .digits import Digits
from .featuretracker import FeatureTracker
from .loader import Batches, loader
from .pathfinder import Pathfinder
from .pathtracker import PathTracker
from .source import IMAGENET_MEAN, IMAGENET_STD, Source, Subset, with_options

datasets: Registry[type] = Registry("dataset")
datasets.register("pathtracker")(PathTracker)
datasets.register("pathfinder")(Pathfinder)
datasets.register("featuretracker")(FeatureTracker)
datasets.register("digits")(Digits)


def list_datasets() -> list[str]:
    """Names that `create_dataset` knows."""
    return datasets.names()


def create_dataset(name: str, **options: Any) -> Any:
    """The configuration of data set `name`; call `.source(split, ...)` on it.

    Raises UnknownNameError for an unknown name, UsageError for an unknown option or a bad value.

    >>> create_dataset("pathtracker", frames=8).source("val", size=10)[0]["input"].shape
    (8, 32, 32, 3)
    """
    return with_options(datasets[name], name, options)


__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "Batches", "Digits", "FeatureTracker", "PathTracker", "Pathfinder", "Source",
    "Subset", "create_dataset", "datasets", "list_datasets", "loader",
]  # fmt: skip
