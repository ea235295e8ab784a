"""cssm: state-space models that see. Recurrent vision models, parallel in time and spectral in space.

Everything is loaded when it is first used, so that `import cssm` is quick.
"""

import importlib
from typing import Any

_WHERE = {
    "create_mixer": "cssm.nn", "list_mixers": "cssm.nn", "create_model": "cssm.models", "list_models": "cssm.models",
    "create_dataset": "cssm.data", "list_datasets": "cssm.data",
}  # fmt: skip
_MODULES = ("bench", "core", "data", "models", "nn", "ops", "recipes", "tasks", "torch", "train", "viz")

__all__ = [*_WHERE, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"cssm.{name}")
    raise AttributeError(f"module 'cssm' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
