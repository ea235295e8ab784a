"""cssm: state-space models that see. Recurrent vision models, parallel in time and spectral in space.

Everything is loaded when it is first used, so that `import cssm` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers see
    from . import bench, core, data, models, nn, ops, recipes, tasks, torch, train, viz, weights
    from .data import create_dataset, list_datasets
    from .models import create_model, list_models
    from .nn import create_mixer, list_mixers
    from .recipes import load_run, predict
    from .weights import list_pretrained, load_pretrained

__all__ = [
    "bench", "core", "create_dataset", "create_mixer", "create_model", "data", "list_datasets", "list_mixers",
    "list_models", "list_pretrained", "load_pretrained", "load_run", "models", "nn", "ops", "predict", "recipes",
    "tasks", "torch", "train", "viz", "weights",
]  # fmt: skip

__version__: str  # of the installed package
_WHERE = {
    "create_dataset": "data", "list_datasets": "data", "create_mixer": "nn", "list_mixers": "nn",
    "create_model": "models", "list_models": "models", "load_run": "recipes", "predict": "recipes",
    "list_pretrained": "weights", "load_pretrained": "weights",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cssm")
    if name in _WHERE:
        return getattr(importlib.import_module(f"cssm.{_WHERE[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"cssm.{name}")
    raise AttributeError(f"module 'cssm' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
