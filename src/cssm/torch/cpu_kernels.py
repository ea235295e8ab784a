"""How PyTorch calls the compiled CPU kernels: on the tensors' own memory, on the threads that PyTorch uses itself."""

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cssm.kernels import call_frame
from cssm.kernels.call_frame import Place
from cssm.shared.threads import run, usable_threads


def call(
    kernel: int, double: bool, tasks: int, operands: Sequence[Tensor | np.ndarray], results: Sequence[Tensor]
) -> None:
    """Do all tasks of a kernel. Operands of any layout, results contiguous. Raises: MemoryError."""
    operands = [a.detach().resolve_conj().resolve_neg().contiguous() if isinstance(a, Tensor) else a for a in operands]
    threads = max(1, min(usable_threads(), torch.get_num_threads(), tasks))
    share = partial(_share, threads=threads)
    call_frame.call(kernel, double, tasks, [_place(a) for a in operands], [_place(a) for a in results], share)


def new_array(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory of NumPy, which asks the system for large pages where it is new."""
    like = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    return torch.from_numpy(np.empty(tuple(shape), like))


def _place(array: Tensor | np.ndarray) -> Place:
    address = array.data_ptr() if isinstance(array, Tensor) else array.ctypes.data
    return Place(address, tuple(array.shape))


def _share(worker: Callable[[int], Any], address: int, argument: int, *, threads: int) -> None:
    if threads == 1:
        worker(argument)
        return
    team = _team(os.getpid())
    if team is None:
        run([partial(worker, argument)] * threads)
    else:
        team(address, argument, threads, 0)


FIRST = os.getpid()


@cache
def _team(process: int) -> Any:
    """OpenMP's way to call a C function on the threads that PyTorch's own operators wait on: other threads would have
    to share the cores with those, which wait by spinning. None where PyTorch has no GNU OpenMP, and after a fork."""
    if process != FIRST:
        return None
    try:
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "omp" in line}
        libraries = [ctypes.CDLL(path) for path in sorted(loaded) if ".so" in path]
    except OSError:
        return None
    for library in libraries:
        if hasattr(library, "GOMP_parallel"):
            team = library.GOMP_parallel
            team.argtypes, team.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
            return team
    return None
