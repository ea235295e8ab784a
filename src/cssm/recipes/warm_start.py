"""A model that begins with parameters that were trained before: a run's, a file of cssm's own, or one of timm's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.models.registry import warm_started
from cssm.models.timm_weights import Loaded, load_timm, read_arrays
from cssm.nn.parts.position import resample_table

SHIPPED = Path(__file__).parents[1] / "weights"
HEADS = ("head.", "projections.")  # behind the trunk


def located(path: Path) -> Path:
    """The file or folder that is meant: a trained model that ships with cssm may be named."""
    shipped = SHIPPED / f"{path}.safetensors"
    return (shipped if not path.exists() and shipped.is_file() else path).absolute()


def config_for(config: Any, path: Path) -> Any:
    """The model's configuration that can take those parameters; raises as `warm_started` for a file of timm's."""
    return config if path.is_dir() or _is_own(path) else warm_started(config, path)


def start_from(model: Any, path: Path) -> Loaded:
    """Put the parameters of a run's best checkpoint, of a file of `cssm.weights.pack`, or of timm's into the model.

    Raises:
      UsageError: parameters of another model; CheckpointError, DataError: a folder or file that cannot be read.
    """
    if path.is_dir():
        from .run import load_run

        return load_named(model, parameters(load_run(path)[1]), str(path))
    if _is_own(path):
        return load_named(model, read_arrays(path), str(path))
    return load_timm(model, path)


def parameters(model: Any) -> dict[str, np.ndarray]:
    """name -> array of all that a model holds, names as paths with points."""
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}


def put(model: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays in place of what the model holds under their names, as `parameters` gives them; all else stays."""
    flat = [(path, ".".join(map(str, path)), leaf) for path, leaf in nnx.to_flat_state(nnx.state(model))]
    new = [(path, leaf.replace(jnp.asarray(arrays[name]))) for path, name, leaf in flat if name in arrays]
    nnx.update(model, nnx.from_flat_state(new))


def load_named(model: Any, arrays: Mapping[str, np.ndarray], source: str) -> Loaded:
    """Put arrays into the parameters of their names. Positions are resampled to the grid of the model; a head of other
    classes is left, and so are projections of self-supervision; all else must fit.

    Raises:
      UsageError: an array of another shape, one that the model has not, or nothing that fits; the model is unchanged.

    >>> layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    >>> print(load_named(layer, {"bias": np.ones(3, np.float32)}, "a file"))
    taken: 1 arrays
    not in the file: kernel: keeps its value
    """
    own = {name: value.shape for name, value in parameters(model).items()}
    taken, changed, left = {}, {}, {}
    for name, array in sorted(arrays.items()):
        shape = own.get(name)
        has = "none of that name" if shape is None else str(shape)
        if shape == array.shape:
            taken[name] = array
        elif name.startswith(HEADS):
            left[name] = f"shape {array.shape}, the model has {has}"
        elif name.endswith("positions") and shape is not None and shape[-1] == array.shape[-1]:
            taken[name] = np.asarray(resample_table(jnp.asarray(array), (shape[0], shape[1])))
            changed[name] = f"resampled from {array.shape[:2]} to {shape[:2]}"
        else:
            raise UsageError(
                f"{source}: {name} has shape {array.shape}, the model has {has}: choose the model it is of"
            )
    if not taken:
        raise UsageError(f"{source} holds no parameter of a {type(model).__name__}: choose the model it is of")
    put(model, taken)
    kept = {name: "keeps its value" for name in own if name not in taken}
    return Loaded(tuple(n for n in taken if n not in changed), changed, left, kept)


def _is_own(path: Path) -> bool:
    """Whether a file says which run of cssm it is of."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return "run" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False  # what reads it says so
