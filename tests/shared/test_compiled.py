"""Cached code is thrown away when the source of any kernel changes, not of its own file alone."""

import subprocess
import sys

import numba
from numba import types

from cssm.shared import compiled as compiled_module
from cssm.shared.compiled import callback

PROGRAM = """
import sys
from pathlib import Path
from cssm.shared import compiled as module
module.KERNELS = Path(sys.argv[1])
sys.path.insert(0, sys.argv[1])
import outer
print(outer.outer(1), sum(outer.outer.stats.cache_hits.values()))
"""


def test_a_function_is_compiled_anew_when_one_it_calls_has_changed(tmp_path):
    def run():
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=100, check=True
        )
        return done.stdout.split()

    head = "from cssm.shared.compiled import compiled\n"
    (tmp_path / "outer.py").write_text(
        head + "from inner import inner\n\n@compiled\ndef outer(x):\n    return inner(x) + 1\n"
    )
    inner = head + "\n@compiled\ndef inner(x):\n    return {} * x\n"
    (tmp_path / "inner.py").write_text(inner.format(10))
    assert run() == ["11", "0"] and run() == ["11", "1"]
    (tmp_path / "inner.py").write_text(inner.format(20))
    assert run() == ["21", "0"]


def test_a_terminal_is_told_once_before_the_first_compilation(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(compiled_module, "_said", [])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    functions = (lambda x: 2 * x, lambda x: 3 * x)
    for function in functions:
        callback(types.int64(types.int64), function)
    compiled_module._said.clear()
    callback(types.int64(types.int64), functions[0])  # kept: nothing to say
    assert capsys.readouterr().err.count("compiling the CPU kernels, up to 20 seconds, once") == 1
