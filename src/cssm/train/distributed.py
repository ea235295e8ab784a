"""Data parallelism over the local devices: the state is replicated, the rows of a batch are divided."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cssm.core.errors import DataError, UsageError

ROWS = "rows"


def local_mesh() -> Mesh:
    """One axis over all local devices. Raises UsageError in a multi-process run, which is not supported."""
    if jax.process_count() > 1:
        raise UsageError(
            f"{jax.process_count()} JAX processes: training uses the devices of one, start it without jax.distributed"
        )
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), (ROWS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Axis `axis` divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, ROWS))


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
    """Pad the rows so that every device and micro-batch gets as many, and send them to the devices."""
    return jax.device_put(pad_rows(batch, accumulate * mesh.size), by_rows(mesh))
