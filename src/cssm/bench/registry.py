"""The names `cssm bench` knows: operators, models, panels and sweeps. Each gives its comparisons one by one."""

from collections.abc import Callable, Iterator

from cssm.core.registry import Registry

from .harness import Comparison

Maker = Callable[[], Iterator[Comparison]]

OP_BENCHES: Registry[Maker] = Registry("benchmark")
MODEL_BENCHES: Registry[Maker] = Registry("model benchmark")
SWEEP_BENCHES: Registry[Maker] = Registry("sweep")
