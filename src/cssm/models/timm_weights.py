"""Parameters of timm's models into ours and back, as safetensors files or dictionaries of NumPy arrays.

timm's names and layouts: matrices (out, in), convolutions (out, in, height, width), positions (1, N, C).
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.files import replacing
from cssm.nn.parts.attention import SelfAttention
from cssm.nn.parts.depthwise import Depthwise, DepthwiseSSM, DepthwiseSSM3D, GatedSSM
from cssm.nn.parts.position import resample_table
from cssm.nn.parts.tokens import Tokens

from .convnext import ConvNeXt
from .host import Host
from .model import Model
from .vit import VisionTransformer

Arrays = Mapping[str, np.ndarray]
LARGEST = 64 << 30  # bytes of a file


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What became of every array of a file, and of every parameter of the model. Prints as a table.

    taken: as it is. changed: after resampling (positions, input channels), name -> how. left: of the file, not used,
    name -> why. kept: parameters of the model that the file does not have, which keep their values, or what they
    became.
    """

    taken: tuple[str, ...]
    changed: Mapping[str, str]
    left: Mapping[str, str]
    kept: Mapping[str, str]

    def __str__(self) -> str:
        parts = {"changed": self.changed, "left in the file": self.left, "not in the file": self.kept}
        lines = [f"{title}: {name}: {why}" for title, names in parts.items() for name, why in names.items()]
        return "\n".join([f"taken: {len(self.taken)} arrays", *lines])


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a file: timm's name, ours, and how one becomes the other."""

    name: str
    ours: str
    parameter: Any
    into: Callable[[np.ndarray], np.ndarray]
    out: Callable[[np.ndarray], np.ndarray]
    adapt: Callable[[np.ndarray, tuple[int, ...]], tuple[np.ndarray, str] | None] = lambda array, shape: None
    """An array of another shape to that of the model, and how; None where it does not fit."""
    optional: bool = False
    """The classifier: of other classes, it is left."""

    def fitted(self, array: np.ndarray, source: str) -> tuple[np.ndarray | None, str]:
        """The parameter that the array becomes, and how where it is changed; None and why, where it is left.

        Raises:
          UsageError: an array of another size.
        """
        shape = tuple(self.parameter[...].shape)
        try:
            value = self.into(array)
            found = (value, "") if value.shape == shape else self.adapt(value, shape)
        except (ValueError, IndexError):  # too few axes
            found = None
        if found is None and self.optional:
            return None, f"shape {array.shape}, the model has {shape}: other classes"
        if found is None:
            raise UsageError(
                f"{source}: {self.name} has shape {array.shape}, which does not fit {self.ours} {shape}: choose the "
                "model that the file is of"
            )
        return found


def load_timm(model: Model, source: str | os.PathLike | Arrays) -> Loaded:
    """Put the parameters of timm's model into ours.

    A plain host (attention with a class token; ConvNeXt's dwconv) takes all of them. With a mixer it takes what fits.
    In ConvNeXt's recurrent variants A becomes 0 and B the identity, in a hybrid gamma becomes 0, so that the model
    computes what the plain one does. Positions are resampled to the grid of the model, the first convolution is adapted
    to its channels (their sum, or repeats, as timm does), a classifier of other classes is left.

    Args:
      model: of `ViTConfig` or `ConvNeXtConfig`. source: a safetensors file, or name -> array.

    Returns:
      What was taken, changed, left and kept; print it.

    Raises:
      UsageError: no such file, another kind of file or model, or arrays of another size; the model is unchanged.

    >>> from .convnext import ConvNeXtConfig
    >>> config = ConvNeXtConfig(depths=(1,), dims=(4,), num_classes=2)
    >>> arrays = timm_arrays(config.make(nnx.Rngs(0)))
    >>> print(load_timm(config.make(nnx.Rngs(1)), arrays))
    taken: 17 arrays
    """
    arrays, entries = read_arrays(source), [*_entries(model)]
    taken, changed, left, new = [], {}, {}, []
    for entry in (entry for entry in entries if entry.name in arrays):
        value, how = entry.fitted(np.asarray(arrays[entry.name]), _named(source))
        if value is None:
            left[entry.name] = how
            continue
        if how:
            changed[entry.name] = how
        elif entry.name not in taken:
            taken.append(entry.name)
        new.append((entry.parameter, value))
    known = {entry.name for entry in entries}
    left |= {name: "the model has no such parameter" for name in arrays if name not in known}
    missing = {e.ours: "keeps its value" for e in entries if e.name not in arrays}
    plain = _is_plain(model)
    if not new or (plain and (missing or set(left) - {e.name for e in entries if e.optional})):
        wrong = ", ".join([*missing, *left][:4]) or "nothing fits"
        raise UsageError(f"{_named(source)} is not a timm file of this model; on one side alone: {wrong}")
    for parameter, value in new:
        parameter[...] = jnp.asarray(value, parameter[...].dtype)
    kept = {} if plain else missing | _kept(model, {id(parameter) for parameter, _ in new}) | _as_plain(model)
    return Loaded(tuple(taken), changed, left, kept)


def timm_arrays(model: Host) -> dict[str, np.ndarray]:
    """The parameters of a plain host under timm's names, float32.

    Raises:
      UsageError: a host that timm does not have.
    """
    if not _is_plain(model):
        raise UsageError("timm has no such model: a host with attention and learned positions, or ConvNeXt's dwconv")
    arrays: dict[str, np.ndarray] = {}
    for entry in _entries(model):
        value = entry.out(np.asarray(entry.parameter[...], np.float32))
        arrays[entry.name] = value if entry.name not in arrays else np.concatenate([value, arrays[entry.name]], 1)
    return arrays


def save_timm(model: Host, path: str | os.PathLike) -> None:
    """Write a plain host as a safetensors file that timm loads: `timm.create_model(name, checkpoint_path=path)`.

    Raises:
      UsageError: a host that timm does not have.
    """
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in timm_arrays(model).items()}
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(save(arrays, metadata={"format": "pt"}))


def read_arrays(source: str | os.PathLike | Arrays) -> Arrays:
    """name -> array of a safetensors file. Raises UsageError: no such file, or another kind of file."""
    if isinstance(source, Mapping):
        return source
    from safetensors import SafetensorError, safe_open

    path = Path(source)
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give a safetensors file, such as one of timm, or the folder of a run")
    if path.stat().st_size > LARGEST:
        raise UsageError(f"{path} has {path.stat().st_size} bytes: more than any model")
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise UsageError(f"{path} is not a safetensors file ({error}): save the model with safetensors") from None


def _named(source) -> str:
    return "the dictionary" if isinstance(source, Mapping) else str(source)


def _is_plain(model) -> bool:
    """Whether timm has it."""
    mixers = [block.mixer for block in model.stack.blocks]
    if isinstance(model, ConvNeXt):
        return all(isinstance(m, Depthwise) and m.boundary == "zero" and m.bias is not None for m in mixers)
    stem: Any = model.stem
    complete = stem.class_token is not None and stem.positions is not None
    return complete and all(isinstance(mixer, SelfAttention) for mixer in mixers)


def _entries(model) -> Iterator[Entry]:
    """Every array that timm's model of this kind has and ours can take."""
    if isinstance(model, ConvNeXt):
        yield from _convnext(model)
    elif isinstance(model, VisionTransformer):
        yield from _vit(model)
    else:
        raise UsageError(f"timm has no {type(model).__name__}: its parameters fit VisionTransformer and ConvNeXt")


def _vit(model) -> Iterator[Entry]:
    stem: Tokens = model.stem
    yield from _convolution("patch_embed.proj", "stem.conv", stem.conv)
    if stem.class_token is not None:
        yield _row("cls_token", "stem.class_token", stem.class_token)
    if stem.positions is not None:
        yield _positions(stem.positions)
    if stem.class_position is not None and stem.positions is not None:
        into = partial(_first_row, stem.positions[...].shape[:2])
        yield Entry("pos_embed", "stem.class_position", stem.class_position, into, lambda a: a[None, None])
    for i, block in enumerate(model.stack.blocks):
        ours, theirs = f"stack.blocks.{i}", f"blocks.{i}"
        yield from _norm(f"{theirs}.norm1", f"{ours}.norm", block.norm.affine)
        if isinstance(block.mixer, SelfAttention):
            yield from _dense(f"{theirs}.attn.qkv", f"{ours}.mixer.attention.qkv", block.mixer.attention.qkv)
            yield from _dense(f"{theirs}.attn.proj", f"{ours}.mixer.attention.out", block.mixer.attention.out)
        yield from _block(
            block, ours, f"{theirs}.norm2", f"{theirs}.mlp", (f"{theirs}.ls1.gamma", f"{theirs}.ls2.gamma")
        )
    yield from _norm("norm", "head.norm", model.head.norm)
    yield from _dense("head", "head.head", model.head.head, optional=True)


def _convnext(model) -> Iterator[Entry]:
    yield from _convolution("stem.0", "stem.conv", model.stem.conv)
    yield from _norm("stem.1", "stem.norm", model.stem.norm)
    stage, place = 0, -1
    for i, block in enumerate(model.stack.blocks):
        if block.branches == 2:  # a hybrid's
            continue
        ours, place = f"stack.blocks.{i}", place + 1
        if block.downsample is not None:
            stage, place = stage + 1, 0
            yield from _norm(f"stages.{stage}.downsample.0", f"{ours}.downsample.norm", block.downsample.norm)
            yield from _convolution(f"stages.{stage}.downsample.1", f"{ours}.downsample.conv", block.downsample.conv)
        theirs, conv = f"stages.{stage}.blocks.{place}", _depthwise(block.mixer)
        if conv is not None:
            yield Entry(
                f"{theirs}.conv_dw.weight", f"{ours}.mixer.kernel", conv.kernel, lambda a: a[:, 0], lambda a: a[:, None]
            )
            if conv.bias is not None:
                yield _vector(f"{theirs}.conv_dw.bias", f"{ours}.mixer.bias", conv.bias)
        names = f"{theirs}.norm", f"{theirs}.mlp", (None, f"{theirs}.gamma")
        yield from _block(block, ours, *names, convolutions=model.conv_mlp)
    yield from _norm("head.norm", "head.norm", model.head.norm)
    yield from _dense("head.fc", "head.head", model.head.head, optional=True)


def _depthwise(mixer) -> Depthwise | None:
    """The depthwise convolution inside a mixer of ConvNeXt."""
    if isinstance(mixer, GatedSSM):
        mixer = mixer.system
    if isinstance(mixer, (DepthwiseSSM, DepthwiseSSM3D)):
        mixer = mixer.conv
    return mixer if isinstance(mixer, Depthwise) else None


def _block(
    block, ours: str, norm: str, mlp: str, scales: tuple[str | None, str], convolutions: bool = False
) -> Iterator[Entry]:
    yield from _norm(norm, f"{ours}.mlp_norm", block.mlp_norm)
    yield from _dense(f"{mlp}.fc1", f"{ours}.mlp.up", block.mlp.up, convolution=convolutions)
    yield from _dense(f"{mlp}.fc2", f"{ours}.mlp.down", block.mlp.down, convolution=convolutions)
    for name, own in zip(scales, ("layer_scale", "mlp_layer_scale"), strict=True):
        if name is not None and getattr(block, own) is not None:
            yield _vector(name, f"{ours}.{own}", getattr(block, own))


def _vector(name: str, ours: str, parameter, **options) -> Entry:
    return Entry(name, ours, parameter, lambda a: a, lambda a: a, **options)


def _row(name: str, ours: str, parameter) -> Entry:
    return Entry(name, ours, parameter, lambda a: a.reshape(a.shape[-1]), lambda a: a[None, None])


def _norm(name: str, ours: str, norm) -> Iterator[Entry]:
    yield _vector(f"{name}.weight", f"{ours}.scale", norm.scale)
    yield _vector(f"{name}.bias", f"{ours}.bias", norm.bias)


def _dense(name: str, ours: str, layer, optional: bool = False, convolution: bool = False) -> Iterator[Entry]:
    """A matrix, or a 1 x 1 convolution: both are read, and written as asked for."""
    into = lambda a: (a[:, :, 0, 0] if a.ndim == 4 else a).T  # noqa: E731
    out = lambda a: a.T[:, :, None, None] if convolution else a.T  # noqa: E731
    yield Entry(f"{name}.weight", f"{ours}.kernel", layer.kernel, into, out, optional=optional)
    yield _vector(f"{name}.bias", f"{ours}.bias", layer.bias, optional=optional)


def _convolution(name: str, ours: str, layer) -> Iterator[Entry]:
    into, out = (lambda a: a.transpose(2, 3, 1, 0)), (lambda a: a.transpose(3, 2, 0, 1))
    yield Entry(f"{name}.weight", f"{ours}.kernel", layer.kernel, into, out, adapt=_input_channels)
    yield _vector(f"{name}.bias", f"{ours}.bias", layer.bias)


def _input_channels(kernel, shape):
    """As timm: one channel is the sum of all, others repeat them at the same total."""
    height, width, had, channels = kernel.shape
    if (height, width, channels) != (*shape[:2], shape[3]):
        return None
    if shape[2] == 1:
        return kernel.sum(2, keepdims=True), f"the sum of {had} input channels"
    repeated = np.tile(kernel, (1, 1, math.ceil(shape[2] / had), 1))[:, :, : shape[2]] * (had / shape[2])
    return repeated, f"{had} input channels repeated to {shape[2]}"


def _positions(parameter) -> Entry:
    """(1, N, C), with or without a class position in front, as a square table on our grid."""
    height, width, channels = parameter[...].shape

    def into(array):
        rows = array[0]
        count = rows.shape[0]
        if count in (height * width, height * width + 1):
            return rows[count - height * width :].reshape(height, width, channels)
        side = math.isqrt(count)
        return rows[count - side * side :].reshape(side, side, rows.shape[1])

    def adapt(table, shape):
        if table.shape[2] != channels:
            return None
        table = np.asarray(resample_table(jnp.asarray(table, jnp.float32), shape[:2]))
        return table, f"resampled to {shape[0]} x {shape[1]}"

    return Entry("pos_embed", "stem.positions", parameter, into, lambda a: a.reshape(1, -1, channels), adapt=adapt)


def _first_row(grid, positions):
    """The position of the class token: where there is one row more than our grid or a square has, else ValueError."""
    count = positions.shape[1] - 1
    if count != math.prod(grid) and math.isqrt(count) ** 2 != count:
        raise ValueError("no row for a class token")
    return positions[0, 0]


def _kept(model, loaded: set[int]) -> dict[str, str]:
    """The parameters that are of no array."""
    found = {}
    for path, parameter in nnx.iter_graph(model):
        if isinstance(parameter, nnx.Param) and id(parameter) not in loaded:
            found[".".join(map(str, path))] = "keeps its value"
    return found


def _as_plain(model) -> dict[str, str]:
    """Make the recurrences of a ConvNeXt pass on what they see, as in the plain one."""
    if not isinstance(model, ConvNeXt):
        return {}
    done = {}
    for i, block in enumerate(model.stack.blocks):
        ours, mixer = f"stack.blocks.{i}", block.mixer
        if block.branches == 2 and block.layer_scale is not None:
            block.layer_scale[...] = jnp.zeros_like(block.layer_scale[...])
            done[f"{ours}.layer_scale"] = "0: the block adds nothing yet"
        if isinstance(mixer, (DepthwiseSSM, DepthwiseSSM3D)):
            mixer.pass_on()
            done[f"{ours}.mixer.recurrence_kernel"] = "0"
            done[f"{ours}.mixer.input_kernel"] = "the identity"
    return done
