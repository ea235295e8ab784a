"""Array files (.npy) that may be hostile: no pickle, and the size is checked before anything is allocated."""

import os
from pathlib import Path

import numpy as np

from cssm.core.errors import DataError


def read_npy(path: Path, dtype: str, ndim: int) -> np.ndarray:
    """The array in `path`, which must have `dtype` and `ndim`.

    Raises DataError when the file is no .npy, has another type, or is shorter or longer than its header says.
    """
    kind = np.dtype(dtype)
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, found = read(file, max_header_size=4096)
            wanted, left = (
                int(np.prod(shape, dtype=object)) * kind.itemsize,
                os.fstat(file.fileno()).st_size - file.tell(),
            )
            if found != kind or len(shape) != ndim:
                raise DataError(f"{path}: {found} of shape {shape}, expected {kind} with {ndim} axes")
            if wanted != left:
                raise DataError(f"{path}: holds {left} bytes of data, its header says {wanted}: truncated or foreign")
            data = np.frombuffer(file.read(), kind)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise DataError(f"{path}: not an array file ({error})") from error
    return data.reshape(shape, order="F" if fortran else "C")
