"""The training state: plain arrays in flat dicts, and the blueprint that makes a module of them again.

The module is taken apart once, before the run, and put together inside jit: at run time only dicts of arrays move.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.nn import RecurrenceParam

from .distributed import put

Arrays = dict[str, Any]  # "blocks/0/out/kernel" -> array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything a step reads and writes.

    `rest` holds the Variables that are not Params (batch statistics, dropout counters); `ema` is None when off.
    `step` counts batches, `skipped` those whose update was not finite and so not applied, `bad_in_row` the latest of
    them without a good one between. All three are int32 (); `key` is uint32 key data.
    """

    step: Any
    params: Arrays
    rest: Arrays
    opt: Any
    ema: Arrays | None
    key: Any
    skipped: Any
    bad_in_row: Any


@dataclass(frozen=True)
class Blueprint:
    """The structure of a module without its arrays: `build(params, rest)` is the module."""

    graphdef: Any
    slots: tuple[tuple[str, tuple, Any], ...]  # name, path, Variable holding only a shape and dtype

    @classmethod
    def of(cls, model: nnx.Module) -> "Blueprint":
        graphdef, state = nnx.split(model)
        return cls(graphdef, tuple((_name(path), path, _abstract(v)) for path, v in nnx.to_flat_state(state)))

    def build(self, params: Arrays, rest: Arrays) -> nnx.Module:
        """A module on these arrays; inside jit it costs nothing at run time."""
        return nnx.merge(self.graphdef, self._state(params | rest))

    def cast(self, params: Arrays, dtype: Any) -> Arrays:
        """float32 parameters in the compute dtype; integers, complex numbers and those of a recurrence stay."""
        kept = {name for name, _, slot in self.slots if isinstance(slot, RecurrenceParam)}
        rounds = lambda name, p: p.dtype == jnp.float32 and name not in kept  # noqa: E731
        return {name: p.astype(dtype) if rounds(name, p) else p for name, p in params.items()}

    def write(self, model: nnx.Module, params: Arrays, rest: Arrays) -> None:
        """Put the arrays into `model`, in place."""
        nnx.update(model, self._state(params | rest))

    def _state(self, values: Arrays) -> Any:
        return nnx.from_flat_state([(path, slot.replace(values[name])) for name, path, slot in self.slots])


def split(model: nnx.Module) -> tuple[Arrays, Arrays]:
    """(params, rest): the arrays of a module by name.

    >>> from flax import nnx
    >>> params, rest = split(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    >>> sorted(params), rest
    (['bias', 'kernel'], {})
    """
    params, rest = {}, {}
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        (params if isinstance(variable, nnx.Param) else rest)[_name(path)] = variable.get_value()
    return params, rest


def init_state(model: nnx.Module, transform: Any, *, seed: int, ema: bool = False) -> TrainState:
    """Step 0. The arrays are copies: the steps donate them, and the caller's model keeps its own."""
    params, rest = jax.tree.map(jnp.copy, split(model))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        rest=rest,
        opt=transform.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        key=jax.random.key_data(jax.random.key(seed)),
        skipped=jnp.zeros((), jnp.int32),
        bad_in_row=jnp.zeros((), jnp.int32),
    )


def to_arrays(state: TrainState) -> Arrays:
    """The state as one flat dict of plain arrays, "params/head/kernel" style; typed keys become their key data."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): _untyped(leaf) for path, leaf in leaves}


def from_arrays(arrays: Arrays, like: TrainState) -> TrainState:
    """The inverse of `to_arrays`, with the structure and shardings of `like`."""
    leaves, treedef = jax.tree_util.tree_flatten(like)
    values = [_placed(arrays[name], leaf) for name, leaf in zip(to_arrays(like), leaves, strict=True)]
    return jax.tree_util.tree_unflatten(treedef, values)


def to_host(arrays: Arrays) -> dict[str, np.ndarray]:
    """Copies in host memory: real copies, because the CPU backend would hand out views of donated buffers."""
    return {name: np.array(value, copy=True) for name, value in jax.device_get(arrays).items()}


def _placed(value: Any, leaf: jax.Array) -> jax.Array:
    if _is_key(leaf):
        value = jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
    return put(value, leaf.sharding)


def _untyped(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(path: tuple) -> str:
    return "/".join(map(str, path))


def _abstract(variable: nnx.Variable) -> nnx.Variable:
    value = variable.get_value()
    return variable.replace(jax.ShapeDtypeStruct(value.shape, value.dtype))
