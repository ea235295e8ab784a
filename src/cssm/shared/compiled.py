"""numba functions that are compiled once and kept on disk, or for this process alone where there is no place."""

import hashlib
import logging
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.ccallback import CFunc

log = logging.getLogger("cssm")
KERNELS = Path(__file__).parents[1] / "kernels"
_said: list[str] = []


def compiled(function: Callable | None = None, **options: Any) -> Any:
    """`numba.njit` without the GIL, cached beside the source or in the user's cache folder; a decorator, with options.

    Where neither can be written (a read-only install and no HOME), the function is compiled anew in each process, and a
    warning says so once.

    >>> @compiled
    ... def double(x):
    ...     return 2 * x
    >>> double(3)
    6
    """
    if function is None:
        return lambda function: compiled(function, **options)
    try:
        return _follow_sources(njit(cache=True, nogil=True, **options)(function))
    except RuntimeError as error:
        _say_where_to_keep(error)
        return njit(nogil=True, **options)(function)


def inner(function: Callable) -> Any:
    """`compiled` for what compiled functions alone call: without what Python needs to call it, in less time."""
    return compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def callback(signature: Any, function: Callable) -> Any:
    """`numba.cfunc`, kept as `compiled` keeps its functions: `.address` is that of a C function.

    >>> from numba import types
    >>> callback(types.int64(types.int64), lambda x: 2 * x).ctypes(4)
    8
    """
    made = CFunc(function, (signature.args, signature.return_type), locals={}, options={})
    try:
        made.enable_caching()
        _say_that_it_takes_a_while(_follow_sources(made))
    except RuntimeError as error:
        _say_where_to_keep(error)
    made.compile()
    return made


def _say_that_it_takes_a_while(function: Any) -> None:
    """One line at a terminal, once, before a function is compiled that no earlier process left."""
    file: Any = getattr(getattr(function, "_cache", None), "_cache_file", None)
    if "slow" in _said or (hasattr(file, "_load_index") and file._load_index()):
        return
    _said.append("slow")
    line = "cssm: compiling the CPU kernels, up to 20 seconds, once; they are kept for later runs"
    if sys.stderr.isatty():
        print(line, file=sys.stderr)
    else:
        log.info(line)


def _say_where_to_keep(error: RuntimeError) -> None:
    if "cannot cache" not in str(error):
        raise error
    if "nowhere" not in _said:
        _said.append("nowhere")
        log.warning(
            "no folder to keep compiled functions in: they are compiled anew in each process, some seconds; set "
            "NUMBA_CACHE_DIR to one that can be written"
        )


def _follow_sources(function: Any) -> Any:
    """`function`, whose cached code is thrown away when any kernel's source changes: numba itself looks at the file of
    the function alone, and keeps what was compiled in from others, however old."""
    file: Any = getattr(getattr(function, "_cache", None), "_cache_file", None)
    if hasattr(file, "_source_stamp"):
        file._source_stamp = (*file._source_stamp, fingerprint())
    return function


@cache
def fingerprint() -> str:
    """Of the sources of all kernels, and of the numbers they share with what calls them."""
    shared = (Path(__file__).with_name(name) for name in ("cell.py", "spectral.py"))
    text = b"".join(path.read_bytes() for path in (*sorted(KERNELS.glob("*.py")), *shared))
    return hashlib.sha256(text).hexdigest()
