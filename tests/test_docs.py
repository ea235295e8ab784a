"""What the documents show is run: README, CONTRIBUTING, every docstring example."""

import ast
import doctest
import filecmp
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import run_of
from PIL import Image

from cssm.cli.words import options_of

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


def test_readme_example_runs(tmp_path, monkeypatch, capsys):
    from cssm.cli import main
    from cssm.data import Digits

    monkeypatch.chdir(tmp_path)  # with the run and the files that the README names
    assert main(["train", "digits", "--steps", "1", "--embed-dim", "8", "--out", "runs/digits"]) == 0
    (tmp_path / "scans").mkdir()
    for i, path in enumerate(("three.png", "scans/a.png")):
        Image.fromarray(Digits().source("test")[i]["input"]).save(path)
    namespace = {}
    for block in python_blocks("README.md"):
        if "import torch" not in block:
            exec(block, namespace)
    assert "scans/a.png" in capsys.readouterr().out
    assert namespace["logits"].shape == (2, 2) and namespace["y"].shape == (2, 32, 32, 16)


def test_readme_example_of_pytorch_runs():
    pytest.importorskip("torch")
    namespace = {}
    exec(next(block for block in python_blocks("README.md") if "import torch" in block), namespace)
    assert namespace["states"].shape == namespace["x"].shape and namespace["y"].shape == (2, 2, 16, 1024)


def test_the_commands_for_several_machines_are_commands():
    from cssm.cli.train import _command

    lines = re.findall(r"cssm train (.+)", (ROOT / "docs" / "machines.md").read_text())
    commands = []
    for line in (line.removesuffix("&").replace("$resume", "--resume") for line in lines):
        assert run_of(line.split()[0]).recipe == line.split()[0]
        commands.append(_command(options_of(line.split()[1:])))
    assert len(commands) == 6 and all(command.out == Path("runs/a") for command in commands)
    assert [command.several for command in commands] == [True, True, True, True, False, True]


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
    """Examples left to `make test-slow`, of most mixers and some operators: outside jit, each operation is compiled."""
    eager = "cssm.bench.mixers_plain", "cssm.ops.goom", "cssm.ops.s4", "cssm.nn.layers.s4", "cssm.ops.delta"
    return name in eager or (name.startswith("cssm.nn.mixers.") and name != "cssm.nn.mixers.no_gate")


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
