"""What a trained model says of pictures and clips: files or arrays, one after the other."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cssm.core.errors import DataError, ShapeError, UsageError
from cssm.data.formats.clips import check_normalised
from cssm.data.formats.folders import listing
from cssm.data.formats.images import read_image
from cssm.data.formats.photographs import Photographs
from cssm.data.formats.video import ARRAYS, FILES, read_clip_or_video
from cssm.models import Model

from .run import Run, compiled

PICTURES, CLIPS = (".png", ".jpg", ".jpeg"), (*ARRAYS, *FILES)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one input."""

    source: str
    """The file, or "input 3" of arrays."""
    output: np.ndarray
    """What the model put out, (outputs,)."""
    reading: dict[str, Any]
    """The same as the task reads it: `class` and `probabilities` by name, of a classifier."""
    text: str
    """The reading in a line for people."""


def predict(run: Run, model: Model, inputs: Iterable[Any]) -> Iterator[Prediction]:
    """The predictions for files and arrays, in order, each when it is asked for.

    Args:
      run, model: of `load_run`.
      inputs: paths of pictures (.png, .jpg: scaled and cut as for the run's evaluation where its data are square),
        of clips (.npz, .npy, see `cssm data clip`; videos, each frame scaled and cut to that size), or of folders of
        such files; arrays (H, W, C) and (T, H, W, C), uint8 or normalised floats.
        Floats that look like 0..255 are told of on stderr.

    Raises:
      DataError: a file that is missing, damaged or of another kind. ShapeError: an array that is no picture or clip of
        the model's channels.

    >>> from flax import nnx
    >>> from cssm.recipes import RECIPES
    >>> run = RECIPES["digits"]().fitted()
    >>> picture = run.data.source("test")[0]["input"]
    >>> [found] = predict(run, run.model.make(nnx.Rngs(0)), [picture])
    >>> found.source, found.output.shape, len(found.reading["probabilities"])
    ('input 0', (10,), 10)
    """
    spec = run.data.sample_spec["input"].shape
    call = compiled(model)
    for source, x in _loaded(inputs, spec, _picture_reader(run, spec)):
        if x.ndim not in (3, 4) or x.shape[-1] != spec[-1] or 0 in x.shape:
            raise ShapeError(f"{source} has shape {x.shape}: expected (H, W, {spec[-1]}) or (T, H, W, {spec[-1]})")
        output = np.asarray(call(run.task.prepare({"input": x[None]})["input"]))[0]
        if output.shape != (run.task.outputs,):
            raise UsageError(f"the model gives {output.shape} outputs, the run's task reads {run.task.outputs}")
        reading = run.task.reading(output)
        yield Prediction(source=source, output=output, reading=reading, text=run.task.show(reading))


def _picture_reader(run: Run, spec: tuple[int, ...]) -> Callable[[Path], np.ndarray]:
    """What reads a picture as the run's evaluation saw its own."""
    if isinstance(run.data, Photographs):
        return run.data.view().read
    *_, height, width, _ = spec
    return partial(read_image, size=height, crop=True) if height == width else read_image


def _loaded(
    inputs: Iterable[Any], spec: tuple[int, ...], picture: Callable[[Path], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(inputs, (str, Path)) or not isinstance(inputs, Iterable):
        raise UsageError(f"predict takes a list of inputs, got a {type(inputs).__name__}: put it into [ ]")
    for i, given in enumerate(inputs):
        if isinstance(given, (str, Path)):
            path = Path(given)
            for file in listing(path, PICTURES + CLIPS, "pictures or clips") if path.is_dir() else [path]:
                yield str(file), _read(file, spec, picture)
        else:
            x = np.asarray(given)
            if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
                raise ShapeError(f"input {i} is {x.dtype}: expected uint8, or normalised floats")
            if np.issubdtype(x.dtype, np.floating) and x.size:
                if not np.isfinite(x).all():
                    raise DataError(f"input {i} contains NaN or infinity: clean it, or give uint8")
                check_normalised(f"input {i}", float(np.abs(x).max()))
            yield f"input {i}", x


def _read(path: Path, spec: tuple[int, ...], picture: Callable[[Path], np.ndarray]) -> np.ndarray:
    suffix = path.suffix.lower()
    if not path.exists():
        raise DataError(
            f"{path}: no such file: give pictures (.png, .jpg), clips (.npz, .npy, .mp4) or folders of them"
        )
    if suffix in CLIPS:
        return read_clip_or_video(path, (spec[-3], spec[-2]))
    if suffix not in PICTURES:
        raise UsageError(f"{path}: no picture or clip by its name: expected one of {', '.join(PICTURES + CLIPS)}")
    if spec[-1] != 3:
        raise ShapeError(f"{path}: a picture has 3 channels, the model takes {spec[-1]}: give a clip or an array")
    return picture(path)
