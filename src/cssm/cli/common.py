"""Shared by the commands: the compilation cache, parsing, the flags of a saved run."""

import contextlib
import dataclasses
import inspect
import io
import os
import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from cssm.core.errors import UsageError
from cssm.shared.allocator import keep_freed_memory

T = TypeVar("T")


def parse(kind: type[T] | Any, argv: list[str], command: str, description: str) -> T:
    """Parse flags into a frozen dataclass with tyro. UsageError, in one line, for a mistake in them."""
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            return tyro.cli(quiet(kind), args=argv, prog=f"cssm {command}", description=inspect.cleandoc(description))
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UsageError(f"{_sentence(heard.getvalue())}; cssm {command} --help lists the options") from None


def quiet(kind: Any) -> Any:
    """`kind` whose help says no default where that is nothing: neither "(default: None)" nor "(default: )"."""
    if not isinstance(kind, type):
        return kind
    hints, nothing = get_type_hints(kind, include_extras=True), tyro.conf.arg(help_behavior_hint="")
    silent = [field.name for field in dataclasses.fields(kind) if field.default is None or field.default == ()]
    return annotated(kind, {name: Annotated[hints[name], nothing] for name in silent})


def annotated(kind: type, hints: Mapping[str, Any]) -> type:
    """`kind` some of whose fields, which have defaults, are annotated otherwise; itself for none."""
    if not hints:
        return kind
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    fields = [(name, hint, dataclasses.field(default=defaults[name])) for name, hint in hints.items()]
    return dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True, kw_only=True)


def _sentence(box: str) -> str:
    """What the framed text of tyro says, without its frame and its help.

    >>> _sentence("+- Oh --+\\n| Missing: |\\n|   --out  |\\n| ------ |\\n| For full helptext, run |\\n+-------+")
    'Missing: --out'
    """
    lines = [line.strip("|│ ") for line in box.splitlines()[1:-1]]
    said = takewhile(lambda line: not line.startswith(("For full helptext", "Argument helptext")), lines)
    return " ".join(line for line in said if line.strip("-─"))


def prepare_process() -> None:
    """What a command that computes wants of its process: compiled programs kept, and the memory of freed arrays."""
    keep_freed_memory()
    enable_compilation_cache()


def enable_compilation_cache() -> None:
    """Keep compiled programs between runs, in JAX_COMPILATION_CACHE_DIR or ~/.cache/cssm/jax, or say why not."""
    import jax

    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    try:
        folder = Path(given) if given else Path.home() / ".cache" / "cssm" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written")
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        print(
            f"cssm: compiled programs are not kept ({error}), so that each start takes longer: set "
            "JAX_COMPILATION_CACHE_DIR to a folder that can be written",
            file=sys.stderr,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def refuse_tracker(model: Any, run: Path) -> None:
    """UsageError for a model that needs points to follow, which the command has none of."""
    if getattr(model, "follows_points", False):
        raise UsageError(f"the model of {run} follows points: use cssm track VIDEO --model {run}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedRun:
    """The flags of a command that reads a run."""

    run: tyro.conf.Positional[Path]
    """Folder that `cssm train` wrote."""
    checkpoint: str = "best"
    """Which parameters: best, last, or the number of a step."""
