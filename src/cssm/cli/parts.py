"""The options that choose a part of a run, and with it which other options there are: model, data, augmentation."""

import dataclasses
from pathlib import Path
from typing import Any

from cssm.core.errors import UsageError

from . import vocabulary
from .values import parse_value
from .words import Option, take

SIZES = ("train_size", "val_size", "test_size")


def with_parts(run: Any, options: list[Option]) -> Any:
    """`run` with the parts that `options` choose; those options are taken out of the list."""
    arch, dataset, folder, augment = (
        take(options, names) for names in (vocabulary.ARCH, vocabulary.DATASET, vocabulary.DATA_DIR, vocabulary.AUGMENT)
    )
    if arch is not None:
        run = dataclasses.replace(run, model=_model(run.model, arch.value()))
    if augment is not None:
        run = dataclasses.replace(run, augment=_augment(run.augment, augment.value()))
    if dataset is not None or folder is not None:
        asked = [o for o in options if vocabulary.plain_name(o.name.rpartition(".")[2]) == "difficulty"]
        difficulty = parse_value(asked[-1], int) if asked else None
        run = _with_data(run, dataset and dataset.value(), folder and Path(folder.value()), difficulty)
    return run


def _model(now: Any, name: str) -> Any:
    """The registered model. Where the recipe's is of the same kind, and the name is the only one of that kind, its
    options stay but for those that the name decides."""
    from cssm.models import MODELS

    wanted = MODELS[name]
    if type(wanted) is not type(now) or sum(type(MODELS[n]) is type(wanted) for n in MODELS.names()) > 1:
        return wanted
    plain = type(wanted)()
    decided = {f.name: getattr(wanted, f.name) for f in dataclasses.fields(wanted)}
    return dataclasses.replace(now, **{n: v for n, v in decided.items() if v != getattr(plain, n)})


def _augment(now: Any, name: str) -> Any:
    from cssm.data.augment import AUGMENTS

    if name == "none":
        return None
    kind = AUGMENTS[name]
    return now if isinstance(now, kind) else kind()


def _with_data(run: Any, name: str | None, root: Path | None, difficulty: int | None) -> Any:
    """Another data set, or the same from files: options that both have are kept, files give all that they hold."""
    from cssm.data import DATASETS, StoredFiles, files_class, is_files, open_files

    name = name or _name_of(type(run.data))
    known = {field.name for field in dataclasses.fields(run.data)}
    difficulty = difficulty if difficulty is not None else getattr(run.data, "difficulty", None)
    kind: Any = DATASETS[name] if root is None else files_class(root, name, difficulty)
    if kind is StoredFiles and root is not None:  # read as it was made
        options = {} if difficulty is None or "difficulty" not in known else {"difficulty": difficulty}
        return dataclasses.replace(run, data=open_files(root, name, **options), **dict.fromkeys(SIZES))
    place: dict[str, Any] = {} if root is None else {"root": root}
    if kind is type(run.data):
        return dataclasses.replace(run, data=dataclasses.replace(run.data, **place))
    shared = known & {field.name for field in dataclasses.fields(kind)} - {"root", "layout"}
    kept = {field: getattr(run.data, field) for field in shared}
    sizes = dict.fromkeys(SIZES) if is_files(kind) else {}
    return dataclasses.replace(run, data=kind(**kept, **place), **sizes)


def _name_of(kind: type) -> str:
    from cssm.data import DATASETS

    for name in DATASETS.names():
        if DATASETS[name] is kind:
            return name
    raise UsageError(f"{kind.__name__} is in no registry of data sets: give --dataset")
