"""Kernels that know neither JAX nor PyTorch: Triton for GPUs, numba for CPUs. One kernel, two frameworks.

A Triton source is launched by `ops/*/triton.py` (through jax-triton) and by `cssm.torch` (through autograd.Function).
"""
