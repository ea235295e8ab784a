"""Array files (.npy) that may be hostile: no pickle, and the size is checked before anything is allocated."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from cssm.core.errors import DataError


def read_npy(path: Path, dtype: str | None = None, ndim: int | None = None) -> np.ndarray:
    """The array in `path`, which must have `dtype` and `ndim`, where they are given.

    Raises DataError when the file is no .npy, has another type, or is shorter or longer than its header says.
    """
    try:
        with open(path, "rb") as file:
            return parse_npy(file, os.fstat(file.fileno()).st_size, str(path), dtype, ndim)
    except OSError as error:
        raise DataError(f"{path}: not an array file ({error})") from error


def parse_npy(file: Any, size: int, where: str, dtype: str | None = None, ndim: int | None = None) -> np.ndarray:
    """The array of an open file of `size` bytes, or of an entry of an archive; errors as `read_npy`."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, found = read(file, max_header_size=4096)
        wanted, left = int(np.prod(shape, dtype=object)) * found.itemsize, size - file.tell()
        if (dtype is not None and found != np.dtype(dtype)) or (ndim is not None and len(shape) != ndim):
            raise DataError(f"{where}: {found} of shape {shape}, expected {dtype} with {ndim} axes")
        if found.hasobject:
            raise DataError(f"{where}: holds Python objects, expected numbers")
        if wanted != left or min(shape, default=0) < 0:
            raise DataError(f"{where}: holds {left} bytes of data, its header says {wanted}: truncated or foreign")
        data = np.frombuffer(file.read(), found)
    except (ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"{where}: not an array file ({error})") from error
    return data.reshape(shape, order="F" if fortran else "C")
