"""Which accelerators there are for the kernels of `cssm.kernels`."""

import importlib
from functools import cache

import jax


def one_gpu() -> bool:
    """Whether JAX runs on exactly one GPU: XLA does not split a Triton kernel over several."""
    return jax.default_backend() == "gpu" and jax.device_count() == 1


@cache
def has_jax_triton() -> bool:
    """Whether jax-triton can be imported."""
    try:
        importlib.import_module("jax_triton")
    except ImportError:
        return False
    return True
