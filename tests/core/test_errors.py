import subprocess
import sys

import pytest

from cssm.core.errors import UnknownNameError, UsageError
from cssm.core.registry import Registry


def test_unknown_name_says_what_was_meant_and_what_exists():
    registry = Registry("mixer")
    registry.register("no_gate")(1)
    registry.register("conv_ssm")(2)
    with pytest.raises(UnknownNameError, match="unknown mixer 'no_gat': did you mean 'no_gate'") as caught:
        registry["no_gat"]
    assert caught.value.exit_code == 2 and "conv_ssm" in str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert registry.names() == ["conv_ssm", "no_gate"]


def test_a_name_is_registered_once():
    registry = Registry("mixer")
    registry.register("a")(1)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("a")(2)


def test_core_and_package_import_neither_jax_nor_torch():
    code = "import cssm, cssm.core.typing, cssm.core.registry, sys; print({'jax', 'torch', 'flax'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
