"""Small trained models that ship with the package: safetensors files with the run they come from and its record.

A file's metadata hold `run` (as in config.json), `record` (how it was trained, what it reached) and `sha256` of its
arrays. `pack` writes one from the folder of a run.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from cssm.core.errors import DataError, UnknownNameError, UsageError
from cssm.core.files import replacing
from cssm.models import Tracker
from cssm.recipes import Run, load_run
from cssm.recipes.warm_start import parameters, put
from cssm.train.saved_config import decode, encode

FOLDER = Path(__file__).parent
LARGEST = 2**32  # bytes of a file


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A trained model, the run it comes from, and its record."""

    model: Any
    run: Run
    record: Mapping[str, Any]


def list_pretrained() -> list[str]:
    """Names of the trained models that ship with the package.

    >>> "tracker_small" in list_pretrained()
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def load_pretrained(name: str) -> Any:
    """The trained model of that name, ready to be called.

    Raises:
      UnknownNameError: no such model. DataError: a file that is damaged or of another version.

    >>> tracker = load_pretrained("tracker_small")
    >>> sorted(tracker.config.__dataclass_fields__)[:3]
    ['blocks', 'channels', 'coarse']
    """
    return pretrained(name).model


def pretrained(name: str) -> Pretrained:
    """The trained model of that name with its run and its record; raises as `load_pretrained`."""
    if name not in list_pretrained():
        raise UnknownNameError("trained model", name, list_pretrained())
    return read(FOLDER / f"{name}.safetensors")


def read(path: Path) -> Pretrained:
    """The model of a file that `pack` wrote.

    Raises:
      DataError: a file that is missing, damaged, or of another model than its run says.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} has {path.stat().st_size} bytes: more than any model")
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise DataError(f"{path} is no file of a trained model ({error})") from None
    if about.get("sha256") != checksum(arrays):
        raise DataError(f"{path} is damaged: its arrays do not match their checksum; install the package again")
    try:
        run, record = decode(json.loads(about["run"])), json.loads(about["record"])
    except (DataError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} does not say what model it is ({error})") from None
    return Pretrained(model=_filled(run, arrays, path), run=run, record=record)


def find_tracker(name: str, checkpoint: int | str = "best") -> Tracker:
    """The point tracker of that name, in the folder of a run, or in a file of `pack`.

    Raises:
      UsageError: none of them, or a model that follows no points.
    """
    path = Path(name)
    if checkpoint != "best" and not path.is_dir():
        raise UsageError(f"{name!r} has one set of parameters, checkpoint {checkpoint!r} is for the folder of a run")
    if name in list_pretrained():
        model = load_pretrained(name)
    elif path.suffix == ".safetensors":
        model = read(path).model
    elif path.is_dir():
        model = load_run(path, checkpoint)[1]
    else:
        raise UsageError(f"no model {name!r}: give {', '.join(list_pretrained())}, the folder of a run, or a file")
    if not isinstance(model, Tracker):
        raise UsageError(f"{name!r} is a {type(model).__name__}, which follows no points: choose a tracker")
    return model


def pack(run_dir: str | Path, path: str | Path, record: Mapping[str, Any], checkpoint: int | str = "best") -> Path:
    """Write the model of a run's folder as one file, whole or not at all. record: plain values about its training."""
    from safetensors.numpy import save

    run, model = load_run(run_dir, checkpoint)
    run = replace(run, init_from=None)  # a place on this machine, and of no use where the parameters are at hand
    arrays = {name: np.asarray(value, order="C") for name, value in parameters(model).items()}  # 0-d ones stay so
    about = {"run": json.dumps(encode(run)), "record": json.dumps(dict(record)), "sha256": checksum(arrays)}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        new.write_bytes(save(arrays, metadata=about))  # as any file, where save_file makes one for its owner alone
    return path


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _filled(run: Run, arrays: Mapping[str, np.ndarray], path: Path) -> nnx.Module:
    """The model of a run, its values never drawn but taken from the arrays."""
    model = nnx.eval_shape(lambda: run.make(nnx.Rngs(0)))
    flat = {".".join(map(str, where)): leaf for where, leaf in nnx.to_flat_state(nnx.state(model))}
    for name in sorted(flat.keys() | arrays.keys()):
        shape = None if name not in flat else flat[name].shape
        found = None if name not in arrays else arrays[name].shape
        if shape != found:
            raise DataError(f"{path}: {name} has shape {found} in the file and {shape} in the model: another version?")
    put(model, arrays)
    return model
