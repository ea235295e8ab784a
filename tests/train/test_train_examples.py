"""The examples in the docstrings run and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import cssm.tasks
import cssm.train

MODULES = [f"{p.__name__}.{m.name}" for p in (cssm.tasks, cssm.train) for m in pkgutil.iter_modules(p.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_public_face_has_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for function in (cssm.train.train, cssm.train.evaluate, cssm.train.save_config, cssm.train.read_metrics):
        assert [test for test in finder.find(function) if test.examples], function
