"""What a run ran on, for `environment.json`: versions, devices, source revision and command line."""

import json
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from cssm.core.errors import DataError
from cssm.core.files import read_small

from .manifest import write_json

PACKAGES = ("cssm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, Any]:
    """JSON facts about this process."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "git": git_revision(),
    }


def write_environment(run_dir: Path) -> None:
    """Write `environment.json`: this process, and those of the run before it under `earlier`."""
    path = run_dir / "environment.json"
    earlier = []
    if path.exists():
        try:
            before = json.loads(read_small(path, 2**24))
            earlier = [*before.pop("earlier", []), before]
        except (DataError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({error}): put it aside, and go on") from None
    write_json(path, environment() | {"earlier": earlier})


def git_revision(folder: Path = Path(__file__).parent) -> str | None:
    """The commit of the checkout this package runs from, "+changes" when files differ; None outside one."""
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None or _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return f"{revision}+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else revision


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
