"""What every data set is, generated or from files, and the one registry of them."""

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cssm.core.errors import UnknownNameError, UsageError
from cssm.core.registry import Registry

from .source import Sample, Source


class Spec(NamedTuple):
    """Shape and dtype of one entry of a sample; a batch has a leading axis b."""

    shape: tuple[int, ...]
    dtype: str


class DataSet(abc.ABC):
    """A data set: a frozen dataclass of options, registered in `DATASETS`; the `data` of a run.

    Known by its members, not by its base: a class that has all of them is one. Subclasses get `num_classes`; the other
    members are class facts (ClassVar) or properties.
    """

    @property
    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits there are, of train, val and test."""

    @property
    @abc.abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """What label 0, label 1, ... stand for; the numbers themselves where no names are known."""

    @property
    @abc.abstractmethod
    def baseline(self) -> str:
        """The known shortcut: "markers" (their distance) or "majority" (the most frequent class)."""

    @property
    @abc.abstractmethod
    def sample_spec(self) -> Mapping[str, Spec]:
        """`Spec` of "input", "label", and "markers" where there are any. May read the first record of a set."""

    @property
    def num_classes(self) -> int:
        """Labels are 0..num_classes-1."""
        return len(self.class_names)

    @abc.abstractmethod
    def source(self, split: str = "train", *, size: int | None = None, seed: int = ...) -> Source:
        """The samples of a split: `size` of them, or all (None).

        A generator has no end, so it needs a size; its sample i depends on (seed, split, i) alone. Files give their
        first `size` samples in the published order, or, with a seed, in the order of a permutation by that seed.
        Which samples belong to a split never depends on size or seed.

        Raises UsageError for a split that does not exist, a generator without a size, files without a root, and more
        samples than there are; DataError for files that are missing or not what they claim to be.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:  # True or NotImplemented
        """Looks at the class, not at an instance, whose properties may read files."""
        if cls is not DataSet:
            return NotImplemented
        known = {name for base in other.__mro__ for name in (*vars(base), *vars(base).get("__annotations__", ()))}
        return known >= MEMBERS or NotImplemented


MEMBERS = {"splits", "class_names", "baseline", "sample_spec", "num_classes", "source"}
DATASETS: Registry[Any] = Registry("dataset")


def list_datasets() -> list[str]:
    """Names that `create_dataset` knows.

    >>> "pathtracker" in list_datasets() and "imagenette" in list_datasets()
    True
    """
    return DATASETS.names()


def is_files(kind: type) -> bool:
    """Whether a data set class reads files."""
    return any(field.name == "root" for field in dataclasses.fields(kind))


def with_options(kind: Any, name: str, options: dict[str, Any]) -> Any:
    """`kind(**options)` for a dataclass `kind`; UnknownNameError when it has no such option."""
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {name}", option, known)
    return kind(**options)


def check_split(data: DataSet, name: str, split: str) -> None:
    """UsageError naming the splits of data set `name` when `split` is none of them."""
    if split not in data.splits:
        remedy = "; holdout=0.1 keeps the published val as test" if split == "test" and hasattr(data, "holdout") else ""
        raise UsageError(f"{name} has no split {split!r}: it has {', '.join(data.splits)}{remedy}")


def check_endless(name: str, size: int | None) -> int:
    """The size asked of a generator; UsageError when there is none or it is negative."""
    if size is None:
        raise UsageError(f"{name} is generated and has no end: give a size (--train-size, --val-size)")
    if not 0 <= size <= 2**62:
        raise UsageError(f"size {size} is out of range: choose 0..2**62")
    return size


def root_of(root: Path | None, name: str) -> Path:
    """`root`; UsageError when it is None."""
    if root is None:
        raise UsageError(f"{name} is read from files: give --data-dir (root)")
    return Path(root)


def spec_of(sample: Sample) -> dict[str, Spec]:
    """The specification of a sample.

    >>> spec_of({"input": np.zeros((8, 8, 3), np.uint8), "label": np.int32(1), "valid": np.bool_(True)})
    {'input': Spec(shape=(8, 8, 3), dtype='uint8'), 'label': Spec(shape=(), dtype='int32')}
    """
    return {key: Spec(np.shape(value), np.asarray(value).dtype.name) for key, value in sample.items() if key != "valid"}


def image_spec(*shape: int) -> dict[str, Spec]:
    """The specification of uint8 input of `shape` with a label."""
    return {"input": Spec(shape, "uint8"), "label": Spec((), "int32")}


def marked_spec(*shape: int) -> dict[str, Spec]:
    """`image_spec` and two markers."""
    return {**image_spec(*shape), "markers": Spec((2, 2), "float32")}
