"""The names `cssm bench` knows: operators, models, panels and sweeps. Each gives its comparisons one by one."""

from collections.abc import Callable, Iterator

from cssm.core.registry import Registry

from .harness import Comparison

Maker = Callable[[], Iterator[Comparison]]

OPS: Registry[Maker] = Registry("benchmark")
MODELS: Registry[Maker] = Registry("model benchmark")
SWEEPS: Registry[Maker] = Registry("sweep")
