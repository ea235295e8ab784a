"""Data parallelism over the devices of all processes: the rows of a batch are divided, the state is whole on each, or
divided too."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from cssm.core.errors import DataError, UsageError

ROWS = "rows"


def local_mesh() -> Mesh:
    """One axis over the devices of this process."""
    return _mesh(jax.local_devices())


def global_mesh() -> Mesh:
    """One axis over the devices of all processes. Raises UsageError when one has more of them than another."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    counts = Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        held = ", ".join(f"process {process}: {count}" for process, count in sorted(counts.items()))
        raise UsageError(f"the processes have different numbers of devices ({held}): give each as many")
    return _mesh(devices)


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return jax.make_mesh((len(devices),), (ROWS,), axis_types=(AxisType.Auto,), devices=devices)


def processes(mesh: Mesh) -> int:
    """How many processes share a mesh; each gives as many rows of a batch."""
    return len({device.process_index for device in mesh.devices.flat})


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Axis `axis` divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, ROWS))


def by_parts(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """An array of that shape divided over the devices along its largest axis that they divide; whole where none is.

    >>> by_parts(local_mesh(), (3, 4)).spec == PartitionSpec(None, ROWS)
    True
    """
    fitting = [axis for axis, size in enumerate(shape) if size >= mesh.size and size % mesh.size == 0]
    if not fitting:
        return replicated(mesh)
    return by_rows(mesh, max(fitting, key=lambda axis: shape[axis]))


def pad_rows(batch: Mapping[str, Any], multiple: int) -> dict[str, np.ndarray]:
    """The numeric entries of a batch, its rows filled up to a multiple with zeros that `valid` marks False.

    Entries that no device can hold, such as file names, are left out. Raises DataError when `valid` is missing or
    an entry has another number of rows.
    """
    arrays = {key: np.asarray(value) for key, value in batch.items()}
    arrays = {key: value for key, value in arrays.items() if value.dtype.kind in "biufcV"}
    if "valid" not in arrays:
        raise DataError(f"the batch has the keys {sorted(batch)} and no 'valid': expected a bool for each row")
    rows = len(arrays["valid"])
    for key, value in arrays.items():
        if value.ndim == 0 or len(value) != rows:
            raise DataError(f"batch entry {key!r} has shape {value.shape}: expected {rows} rows, as valid has")
    extra = -rows % multiple
    if extra:
        arrays = {key: np.pad(v, [(0, extra)] + [(0, 0)] * (v.ndim - 1)) for key, v in arrays.items()}
    return arrays


def place(batch: Mapping[str, Any], mesh: Mesh, accumulate: int = 1) -> dict[str, jax.Array]:
    """Pad the rows so that every device and micro-batch gets as many, and send them to the devices.

    `batch` holds the rows of this process; those of process 0 come first in the arrays that result, and so on.
    """
    several, rows = processes(mesh), by_rows(mesh)
    padded = pad_rows(batch, accumulate * mesh.size // several)
    if several == 1:
        return jax.device_put(padded, rows)
    whole = {key: (several * len(value), *value.shape[1:]) for key, value in padded.items()}
    return {key: jax.make_array_from_process_local_data(rows, value, whole[key]) for key, value in padded.items()}


def put(value: Any, sharding: Sharding) -> jax.Array:
    """`jax.device_put` onto devices that other processes may share; each of them holds the whole value."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        data = put(jax.random.key_data(value), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def own_copy(value: jax.Array) -> jax.Array:
    """A copy of a replicated array that is this process's alone."""
    return jnp.copy(value if value.is_fully_addressable else value.addressable_data(0))
