"""Shared set-up: the compilation cache, tree-mode NNX, and the one table of tolerances (they only tighten)."""

import gc
import itertools
import os
from pathlib import Path

os.environ.setdefault("NNX_GRAPH_MODE", "false")
os.environ.setdefault("NNX_GRAPH_UPDATES", "false")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of a test is compiling: XLA's older emitters, without optimisations, take a quarter of the time.
# `make test-slow` compiles as in use.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
    # One piece of machine code for a program: splitting it for many threads costs a quarter more.
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker for each core: PyTorch's threads only wait for each other
os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton kernels run on CPU tensors; read when a kernel is defined
CACHE = Path(__file__).parents[1] / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

gc.set_threshold(200_000, 20, 20)  # tracing makes many objects, few of them garbage


def pytest_collection_modifyitems(items):
    """The laws of one mixer or model follow each other: they share its compiled programs."""
    order = {}

    def place(item):
        name = item.callspec.params.get("name") if "laws" in item.path.name and hasattr(item, "callspec") else None
        return order.setdefault((item.path, name), len(order))

    items.sort(key=place)


@pytest.fixture
def x64():
    """Double precision for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked():
    """The package as users import it, without the checks of annotations: what is of a wrong type meets cssm's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


FINISHED = itertools.count(1)


@pytest.fixture(autouse=True)
def few_memory_maps():
    """Every compiled program holds about a hundred memory maps; Linux allows 65,530, and XLA then crashes."""
    yield
    maps = Path("/proc/self/maps")
    if next(FINISHED) % 20 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
