"""Configurations as JSON and back, exactly: nested frozen dataclasses of cssm, nothing that can run code.

| value                                       | JSON                                     |
|---------------------------------------------|------------------------------------------|
| None, bool, int, float, str                 | itself                                   |
| list                                        | list                                     |
| tuple                                       | {"__tuple__": [...]}                     |
| Path                                        | {"__path__": "..."}                      |
| dict with str keys                          | {"__dict__": {...}}                      |
| frozen dataclass of cssm, or `loadable`     | {"__class__": "cssm.x.Y", "field": ...}  |
"""

import dataclasses
import importlib
import json
import os
import re
from pathlib import Path, PurePath
from typing import Any, get_type_hints

from cssm.core.errors import DataError, UsageError
from cssm.core.files import read_small_text
from cssm.shared.annotations import describe, fits

from .manifest import write_json

CLASS_NAME = re.compile(r"(cssm(?:\.[a-z][a-z0-9_]*)+)\.([A-Z][A-Za-z0-9]*)")
MAX_BYTES = 2**20
LOADABLE: dict[str, type] = {}  # full name -> class declared in this process


def loadable(cls: type) -> type:
    """Declare a frozen dataclass outside cssm (a model, task or data set of your own) as part of saved runs.

    A saved run names its classes; only those of cssm, and those that the process which reads it has declared, are
    built. Nothing is imported because a file says so. Raises UsageError for anything but a frozen dataclass.

    >>> import dataclasses
    >>> @loadable
    ... @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Mine:
    ...     width: int = 8
    >>> decode(encode(Mine(width=4)))
    Mine(width=4)
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and _frozen(cls)):
        raise UsageError(f"{cls!r} is no frozen dataclass: only those can be saved and read back")
    LOADABLE[_full_name(cls)] = cls
    return cls


def save_config(run_dir: str | os.PathLike, config: Any) -> Path:
    """Write `config` (a dataclass of cssm, or a dict or list of such) to run_dir/config.json; returns the path.

    Raises UsageError naming the field whose value has no exact JSON form.

    >>> import tempfile
    >>> from cssm.tasks import Classify
    >>> folder = tempfile.mkdtemp()
    >>> path = save_config(folder, {"task": Classify(num_classes=10)})
    >>> load_config(folder) == {"task": Classify(num_classes=10)}
    True
    """
    path = Path(run_dir) / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, encode(config))
    return path


def load_config(run_dir: str | os.PathLike) -> Any:
    """What `save_config` was given, equal and of the same types.

    Safe on a hostile file: only frozen dataclasses of installed cssm modules are built, from fields they declare.
    Raises DataError when the file is missing, is not such a configuration, or holds a value of a
    wrong type (the field is named) or one that the class refuses.
    """
    path = Path(run_dir) / "config.json"
    try:
        return decode(json.loads(read_small_text(path, MAX_BYTES)))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"no configuration {path}: give the folder of a run") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not a configuration of this version of cssm: {error}") from None


def encode(value: Any, where: str = "config") -> Any:
    """The JSON form of a value; `where` names it in errors."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if type(value) is tuple:
        return {"__tuple__": [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, PurePath):
        return {"__path__": str(value)}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"__dict__": {key: encode(item, f"{where}.{key}") for key, item in value.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_dataclass(value, where)
    raise UsageError(f"{where} is a {type(value).__name__}: a configuration holds plain values and dataclasses of cssm")


def decode(value: Any) -> Any:
    """The value of a JSON form. Raises DataError for anything `encode` does not write."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__class__" in value:
        fields = {key: decode(item) for key, item in value.items() if key != "__class__"}
        return _build(_find_class(value["__class__"]), fields)
    match value:
        case {"__tuple__": list(items)} if len(value) == 1:
            return tuple(decode(item) for item in items)
        case {"__path__": str(path)} if len(value) == 1:
            return Path(path)
        case {"__dict__": dict(items)} if len(value) == 1:
            return {key: decode(item) for key, item in items.items()}
    raise DataError(f"an object with the keys {sorted(value)[:5]} is no value of a configuration")


def _encode_dataclass(value: Any, where: str) -> dict[str, Any]:
    name = _full_name(type(value))
    if _class_of(name) is not type(value):
        raise UsageError(f"{where} is a {name}, which could not be read back: declare it with cssm.train.loadable")
    fields = [field for field in dataclasses.fields(value) if field.init]
    return {"__class__": name} | {f.name: encode(getattr(value, f.name), f"{where}.{f.name}") for f in fields}


def _find_class(name: Any) -> type:
    found = _class_of(name) if isinstance(name, str) else None
    if found is None:
        raise DataError(
            f"{name!r} is no frozen dataclass of cssm, nor declared loadable: import the module that defines it"
        )
    return found


def _class_of(name: str) -> type | None:
    """The frozen dataclass of that full name: declared, or defined in a public module of cssm or inside that package.

    Not one that is merely imported there: a module that became a package still reads what it saved.
    """
    if name in LOADABLE:
        return LOADABLE[name]
    match = CLASS_NAME.fullmatch(name)
    if match is None:
        return None
    try:
        module = importlib.import_module(match[1])
    except ImportError:
        return None
    found = vars(module).get(match[2])
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        return None
    if not f"{found.__module__}.".startswith(f"{match[1]}."):
        return None
    return found if _frozen(found) else None


def _build(cls: type, fields: dict[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(cls) if field.init}
    if unknown := sorted(set(fields) - known):
        raise DataError(f"{cls.__qualname__} has no field {unknown[0]!r}: it was saved by another version of cssm")
    types = _field_types(cls)
    for name, value in fields.items():
        if not fits(value, types.get(name, Any)):
            raise DataError(f"{cls.__qualname__}.{name} is {value!r}, expected {describe(types[name])}: edit the file")
    return cls(**fields)


def _field_types(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError:  # a name that is imported for type checkers only: the class judges its values itself
        return {}


def _frozen(cls: Any) -> bool:
    return cls.__dataclass_params__.frozen


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
