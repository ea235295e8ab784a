"""The lazy modules: what users get, what type checkers are told, and what is listed are the same names."""

import ast
import importlib
from importlib.resources import files

import pytest


def told_to_checkers(module):
    """Names imported under `if TYPE_CHECKING`, and the module of each."""
    tree = ast.parse(files(module).joinpath("__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    return {alias.name: statement.module for statement in block.body for alias in statement.names}


@pytest.mark.parametrize("name", ["cssm", "cssm.torch"])
def test_the_names_are_those_that_checkers_see(name):
    if name == "cssm.torch":
        pytest.importorskip("torch")
    module, told = importlib.import_module(name), told_to_checkers(name)
    assert sorted(told) == sorted(module.__all__) == dir(module)
    for attribute, folder in told.items():
        if attribute == "torch":
            pytest.importorskip("torch")
        home = importlib.import_module(f"{name}.{folder or attribute}")
        assert getattr(module, attribute) is (getattr(home, attribute) if folder else home)
    with pytest.raises(AttributeError, match="it has"):
        module.nothing  # noqa: B018


def test_the_package_says_that_it_is_typed():
    assert files("cssm").joinpath("py.typed").is_file()
