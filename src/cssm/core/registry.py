"""A table from names to things. A duplicate name raises; an unknown one says what was probably meant."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .errors import UnknownNameError

T = TypeVar("T")
Thing = TypeVar("Thing")  # a class keeps its own type when it is registered


class Registry(Generic[T]):
    """`registry[name]` finds by name or alias; `names()` lists the names alone."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._aliases: dict[str, str] = {}

    def register(self, name: str, *, aliases: tuple[str, ...] = ()) -> Callable[[Thing], Thing]:
        """A decorator that enters a thing as `name`. ValueError when the name or an alias is taken."""

        def add(thing: Any) -> Any:
            if self._entries.setdefault(name, thing) is not thing or name in self._aliases:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            for alias in aliases:
                if self._aliases.setdefault(alias, name) != name or alias in self._entries:
                    raise ValueError(f"{self.kind} {alias!r} is registered twice")
            return thing

        return add

    def canonical(self, name: str) -> str:
        """The name that `name`, itself or an alias, stands for. Raises UnknownNameError."""
        found = self._aliases.get(name, name) if isinstance(name, str) else None
        if found is None or found not in self._entries:
            raise UnknownNameError(self.kind, name, [*self._entries, *self._aliases])
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._aliases

    def __getitem__(self, name: str) -> T:
        return self._entries[self.canonical(name)]

    def names(self) -> list[str]:
        return sorted(self._entries)
