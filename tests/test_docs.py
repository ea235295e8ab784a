"""What the documents show is run: README, CONTRIBUTING, every docstring example."""

import doctest
import importlib
import pkgutil
import re
import sys
import types
from pathlib import Path

import pytest

import cssm
import laws
from cssm.nn import MIXERS

ROOT = Path(__file__).parents[1]
ELSEWHERE = (
    "cssm.__main__",
    "cssm.cli",
    "cssm.data",
    "cssm.tasks",
    "cssm.train",
)  # commands, and examples tested there
NEEDS = {"cssm.torch": "torch", "cssm.kernels.decay_scan": "triton", "cssm.kernels.spectral": "triton"}
MODULES = sorted(m.name for m in pkgutil.walk_packages(cssm.__path__, "cssm.") if not m.name.startswith(ELSEWHERE))


def python_blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)


def test_readme_example_runs():
    namespace = {}
    for block in python_blocks("README.md"):
        if "import torch" not in block:
            exec(block, namespace)
    assert namespace["logits"].shape == (2, 2) and namespace["y"].shape == (2, 32, 32, 16)


def test_readme_example_of_pytorch_runs():
    pytest.importorskip("torch")
    namespace = {}
    exec(next(block for block in python_blocks("README.md") if "import torch" in block), namespace)
    assert namespace["states"].shape == namespace["x"].shape and namespace["y"].shape == (2, 2, 16, 1024)


def test_the_mixer_of_contributing_obeys_the_laws():
    module = types.ModuleType("cssm.nn.mixers.leaky", "")
    module.__package__ = "cssm.nn.mixers"
    sys.modules[module.__name__] = module
    try:
        exec(compile(python_blocks("CONTRIBUTING.md")[0], "CONTRIBUTING.md", "exec"), module.__dict__)
        laws.test_1_scan_equals_step("leaky")
        laws.test_2_cutting_changes_nothing("leaky", [3, 6])
        laws.test_2_reset_restarts("leaky")
        laws.test_3_causality_is_exact("leaky")
        laws.test_5_state_is_a_fixed_point_of_step("leaky")
        laws.test_7_static_equals_the_repeated_frame("leaky", 7, "last")
    finally:
        MIXERS._entries.pop("leaky", None)
        del sys.modules[module.__name__]


def left(name):
    """The examples of most mixers are left to `make test-slow`: outside jit, every operation is compiled alone."""
    return name.startswith("cssm.nn.mixers.") and name != "cssm.nn.mixers.no_gate"


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if left(n) else n for n in MODULES])
def test_docstring_examples_run(name):
    for package, needs in NEEDS.items():
        if name.startswith(package):
            pytest.importorskip(needs)
    failures, _ = doctest.testmod(importlib.import_module(name))
    assert not failures
