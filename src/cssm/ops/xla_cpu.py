"""The handler of `kernels/xla_cpu.py` made known to JAX, once a process."""

import ctypes
from functools import cache
from pathlib import Path

import jax

TARGET = "cssm_cpu"


@cache
def unavailable() -> str | None:
    """Registers the handler with JAX; None, or why compiled kernels cannot run in this process."""
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    try:
        major = int(header.read_text().partition("XLA_FFI_API_MAJOR ")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return "the version of XLA's C interface cannot be read"
    if major != 0:
        return f"XLA's C interface has version {major}, 0 is known"
    try:
        from cssm.kernels.xla_cpu import handler_address
    except ImportError as error:
        return f"numba cannot be imported ({error})"
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    jax.ffi.register_ffi_target(TARGET, capsule(handler_address(), None, None), platform="cpu", api_version=1)
    return None
