"""What the fields of a configuration say of themselves: name, type, value, and the docstring under each."""

import ast
import dataclasses
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from typing import Any, get_type_hints


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a part of a run. `path` is its full name, such as train.lr."""

    path: str
    kind: Any
    value: Any
    doc: str

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def flag(self) -> str:
        """The option as typed: --train.warmup-steps."""
        return "--" + self.path.replace("_", "-")


def fields_of(config: Any, part: str = "") -> list[Field]:
    """The fields of a frozen dataclass, with their values in `config`.

    >>> from cssm.train import TrainConfig
    >>> [f.flag for f in fields_of(TrainConfig(steps=1), "train")][:2]
    ['--train.steps', '--train.epochs']
    """
    cls, prefix = type(config), f"{part}." if part else ""
    kinds, docs = get_type_hints(cls), field_docs(cls)
    named = [field.name for field in dataclasses.fields(cls) if field.init]
    return [Field(prefix + name, kinds[name], getattr(config, name), docs.get(name, "")) for name in named]


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each annotated field of a class and of its bases.

    >>> from cssm.train import TrainConfig
    >>> field_docs(TrainConfig)["batch_size"]
    'Rows per update, over all devices and processes; the training data must deliver exactly this many.'
    """
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        docs |= _own_docs(base)
    return docs


def _own_docs(cls: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # a class made at run time has no source
        return {}
    body, docs = tree.body[0].body, {}  # type: ignore[attr-defined]
    for line, after in pairwise(body):
        if isinstance(line, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[ast.unparse(line.target)] = " ".join(str(after.value.value).split())
    return docs
