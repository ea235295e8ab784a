"""How much a step computes, and how much of what the devices could do that is."""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax

# floating-point operations per second of one device, dense: bfloat16, and float32 as JAX multiplies it by default (TF32
# on NVIDIA, bfloat16 on TPU). From the makers' data sheets; the first name that is a word of `device_kind` counts.
PEAKS: dict[str, tuple[float, float]] = {
    "H200": (989e12, 494e12), "H100 PCIe": (756e12, 378e12), "H100 NVL": (835e12, 417e12), "H100": (989e12, 494e12),
    "GH200": (989e12, 494e12), "B200": (2250e12, 1125e12), "A100": (312e12, 156e12), "A10G": (70e12, 35e12),
    "L40S": (362e12, 183e12), "L40": (181e12, 90e12), "L4": (121e12, 60e12), "RTX 4090": (165e12, 82.6e12),
    "V100": (125e12, 15.7e12), "TPU v4": (275e12, 275e12), "TPU v5 lite": (197e12, 197e12), "TPU v5": (459e12, 459e12),
    "TPU v6 lite": (918e12, 918e12),
}  # fmt: skip
OTHERS = re.compile(r"\b(Laptop|Mobile|MIG|Max-Q)\b")  # of which a part, or a slower kind, is there


def devices_peak(dtype: Any) -> float | None:
    """Of all devices of this run together, for a compute dtype; None for devices that are not in the table.

    >>> devices_peak("float32") is None  # of a CPU
    True
    """
    kind = jax.devices()[0].device_kind
    named = (peaks for name, peaks in PEAKS.items() if re.search(rf"\b{name}(?![A-Za-z0-9])", kind))
    found = None if OTHERS.search(kind) else next(named, None)
    return None if found is None else found[jax.numpy.dtype(dtype).itemsize > 2] * jax.device_count()


def step_flops(step: Any, *arrays: Any) -> float:
    """Floating-point operations of a jitted function on those arrays, over all devices together.

    Those of products, convolutions and Fourier transforms, the rest is small beside them: 2 for a multiplication with
    an addition, 5 n log2 n for a complex transform of n points, half of it for a real one; loops as often as they run,
    what is computed again to save memory again. Kernels of other makes, such as the transforms of `cssm.ops` on a CPU,
    cannot be looked into and count for nothing.

    >>> import jax.numpy as jnp
    >>> step_flops(jax.jit(lambda a, b: a @ b), jnp.ones((4, 5)), jnp.ones((5, 6)))  # 2 x 4 x 5 x 6
    240.0
    """
    return _flops(step.trace(*arrays).jaxpr.jaxpr)


def _flops(jaxpr: Any) -> float:
    return sum((_of_equation(equation) for equation in jaxpr.eqns), 0.0)


def _of_equation(equation: Any) -> float:
    params, name = equation.params, equation.primitive.name
    if name in COUNTS:
        return COUNTS[name](params, [var.aval for var in equation.invars], equation.outvars[0].aval)
    inner = [_flops(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    return sum(inner, 0.0) * (params["length"] if name == "scan" else 1)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The programs that an operation runs."""
    for value in params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            each = getattr(each, "jaxpr", each)  # a closed one holds it
            if hasattr(each, "eqns"):
                yield each


def _product(params: dict[str, Any], operands: list[Any], out: Any) -> float:
    (summed, _), _ = params["dimension_numbers"]
    return 2.0 * out.size * math.prod(operands[0].shape[axis] for axis in summed)


def _convolution(params: dict[str, Any], operands: list[Any], out: Any) -> float:
    kernel, outputs = operands[1], params["dimension_numbers"].rhs_spec[0]  # its channels are those of a group
    return 2.0 * out.size * kernel.size / kernel.shape[outputs]


def _transform(params: dict[str, Any], operands: list[Any], out: Any) -> float:
    points = math.prod(params["fft_lengths"])
    real = "RFFT" in params["fft_type"].name
    batch = max(operands[0].size, out.size) / points if not real else _real_rows(params, operands[0], out)
    return 5.0 * points * math.log2(max(points, 2)) * batch * (0.5 if real else 1.0)


def _real_rows(params: dict[str, Any], x: Any, out: Any) -> float:
    real = out if params["fft_type"].name == "IRFFT" else x
    return real.size / math.prod(params["fft_lengths"])


COUNTS = {"dot_general": _product, "conv_general_dilated": _convolution, "fft": _transform}
