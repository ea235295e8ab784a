"""What the documents show is run: README, CONTRIBUTING, every docstring example."""

import ast
import doctest
import importlib
import inspect
import re
import sys
import types
from pathlib import Path

import pytest

import laws
from cssm.nn import MIXERS

ROOT = Path(__file__).parents[1]
NEEDS = {"cssm.torch": "torch", "cssm.kernels.decay_scan": "triton", "cssm.kernels.spectral": "triton"}


def examples_in(path) -> int:
    """How many examples the docstrings of a file hold, without importing it."""
    documented = ast.Module, ast.ClassDef, ast.FunctionDef
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented))
    return sum(len(doctest.DocTestParser().get_examples(ast.get_docstring(node) or "")) for node in nodes)


def module_name(path) -> str:
    return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")


EXAMPLES = {module_name(path): number for path in (ROOT / "src").rglob("*.py") if (number := examples_in(path))}


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


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if left(n) else n for n in sorted(EXAMPLES)])
def test_docstring_examples_run(name):
    for package, needs in NEEDS.items():
        if name.startswith(package):
            pytest.importorskip(needs)
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert not failed and attempted == EXAMPLES[name], f"{EXAMPLES[name] - attempted} examples are out of reach"


@pytest.mark.parametrize(
    ("face", "names"),
    [("cssm.ops", None), ("cssm.torch", None), ("cssm.train", ("train", "evaluate", "save_config", "read_metrics"))],
)
def test_public_functions_have_examples(face, names):
    if face == "cssm.torch":
        pytest.importorskip("torch")
    module, finder = importlib.import_module(face), doctest.DocTestFinder()
    functions = [function for name in names or module.__all__ if inspect.isfunction(function := getattr(module, name))]
    without = [f.__name__ for f in functions if not any(test.examples for test in finder.find(f))]
    assert functions and not without
