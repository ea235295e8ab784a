"""A table from names to things. A duplicate name raises; an unknown one says what was probably meant."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .errors import UnknownNameError

T = TypeVar("T")
Thing = TypeVar("Thing")  # a class keeps its own type when it is registered


class Registry(Generic[T]):
    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Thing], Thing]:
        def add(thing: Any) -> Any:
            if self._entries.setdefault(name, thing) is not thing:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            return thing

        return add

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        return self._entries[name]

    def names(self) -> list[str]:
        return sorted(self._entries)
