import doctest
import importlib
import pkgutil

import pytest

import cssm.data

MODULES = sorted(
    m.name for m in pkgutil.walk_packages(cssm.data.__path__, "cssm.data.") if not m.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
