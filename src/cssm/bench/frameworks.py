"""What the harness needs from a framework: waiting for a result, seeing it as NumPy, its memory, its copy speed."""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from cssm.core.errors import UsageError


@runtime_checkable
class Framework(Protocol):
    """`cssm.bench.frameworks.Jax`, or the module `cssm.torch.bench.measure`."""

    def wait(self, result: Any) -> None: ...
    def arrays(self, result: Any) -> list[np.ndarray]: ...
    def peak_memory(self, function: Callable[[], Any]) -> int | None: ...
    def copy(self, size: int) -> Callable[[], Any]: ...
    def describe(self) -> dict[str, str]: ...


class Jax:
    """JAX on its default device."""

    def wait(self, result):
        jax.block_until_ready(result)

    def arrays(self, result):
        return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]

    def peak_memory(self, function):
        """What the compiler reserves for results and temporaries of a callable made by `jitted`."""
        memory = getattr(function, "memory", None)  # XLA keeps freed memory: resident memory would not show it
        return None if memory is None else memory()

    def copy(self, size):
        """A callable that reads `size` bytes and writes as many, in place: no pages are asked of the system."""
        box, scale = [jnp.ones(size // 4, jnp.float32)], jax.jit(lambda x: -x, donate_argnums=0)

        def call():
            box[0] = scale(box[0])
            return box[0]

        return call

    def describe(self):
        device = jax.devices()[0]
        return {"jax": jax.__version__, "device": device.device_kind, "platform": device.platform}


def framework(name: str) -> Framework:
    """The framework of that name.

    Raises:
      UsageError: torch is asked for and not installed.
    """
    if name == "jax":
        return Jax()
    if not has_torch():
        raise UsageError("PyTorch is not installed: pip install 'cssm[torch]', or leave out --framework torch")
    return importlib.import_module("cssm.torch.bench.measure")  # type: ignore[return-value]


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def jitted(function: Callable, *args: Any) -> Callable[[], Any]:
    """function compiled on fixed arguments, as a callable without any; `.memory()` is what the compiler reserves."""
    compiled = jax.jit(function).lower(*args).compile()

    def call():
        return compiled(*args)

    def memory():
        analysis: Any = compiled.memory_analysis()
        return analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    call.memory = memory
    return call


def forward(function: Callable, *args: Any) -> Callable[[], Any]:
    return jitted(function, *args)


def gradient(function: Callable, *args: Any) -> Callable[[], Any]:
    """Forward, and backward to every argument from a fixed cotangent: no loss is timed."""
    shapes = jax.eval_shape(function, *args)
    cotangent = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(9), leaf.shape, leaf.dtype), shapes)

    def both(cotangent, *args):
        result, pull_back = jax.vjp(function, *args)
        return result, pull_back(cotangent)

    return jitted(both, cotangent, *args)


DIRECTIONS = {"forward": forward, "forward+backward": gradient}
