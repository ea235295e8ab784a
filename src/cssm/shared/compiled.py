"""numba functions that are compiled once and kept on disk, or for this process alone where there is no place."""

import logging
from collections.abc import Callable
from typing import Any

from numba import njit

log = logging.getLogger("cssm")
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
        return njit(cache=True, nogil=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        if not _said:
            _said.append(str(error))
            log.warning(
                "no folder to keep compiled functions in: they are compiled anew in each process, some seconds; set "
                "NUMBA_CACHE_DIR to one that can be written"
            )
        return njit(nogil=True, **options)(function)
