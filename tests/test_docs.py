"""What the documents show is run: README, CONTRIBUTING, every docstring example."""

import doctest
import filecmp
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cssm

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


@pytest.mark.slow
def test_the_mixer_of_contributing_is_one_file_and_one_line(tmp_path):
    """In a copy of the tree, as pasted: every law holds for it, and no document test fails because of it."""
    for part in ("src", "tests", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("README.md", "CONTRIBUTING.md", "pyproject.toml"):
        shutil.copy(ROOT / part, tmp_path / part)
    folder = tmp_path / "src" / "cssm" / "nn" / "mixers"
    (folder / "leaky.py").write_text(python_blocks("CONTRIBUTING.md")[0])
    imports = (folder / "__init__.py").read_text()
    (folder / "__init__.py").write_text(imports.replace("    lru,\n", "    leaky,\n    lru,\n"))
    touched = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file() and not same(p, ROOT, tmp_path)]
    assert sorted(path.name for path in touched) == ["__init__.py", "leaky.py"]
    assert passed(tmp_path, "tests/laws.py", "tests/laws_of_facts.py", "-k", "leaky") > 30
    documents = "tests/test_docs.py", "tests/cli/test_cli_mixers.py"
    assert passed(tmp_path, *documents, "-m", "", "-k", "leaky or readme or ships or facts") > 24


def same(path, root, copy):
    original = root / path.relative_to(copy)
    return original.exists() and filecmp.cmp(path, original, shallow=False)


def passed(folder, *arguments) -> int:
    """The number of tests that pass in a copy of the tree, where all must."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    count = re.search(r"(\d+) passed", done.stdout)
    assert count is not None, done.stdout[-4000:]
    return int(count[1])


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
