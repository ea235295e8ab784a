"""The options of a command line or of a TOML file, before anything is known of what they mean."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from cssm.core.errors import DataError, UsageError
from cssm.core.files import read_small_text


class Option(NamedTuple):
    """One option: its name with underscores, the words that follow it, and how it was typed, for errors."""

    name: str
    values: tuple[str, ...]
    typed: str

    def value(self) -> str:
        """Its one value. Raises UsageError for none, or several."""
        if len(self.values) != 1:
            raise UsageError(f"{self.typed}: expected one value, got {' '.join(self.values) or 'none'}")
        return self.values[0]


def options_of(argv: list[str]) -> list[Option]:
    """The options of a command line, those of every `--config FILE` first. UsageError for a word that belongs to none.

    >>> options_of(["--embed_dim", "8", "--lr=0.1"])[0]
    Option(name='embed_dim', values=('8',), typed='--embed_dim')
    """
    options: list[Option] = []
    for word in argv:
        if word.startswith("--"):
            typed, equals, value = word.partition("=")
            options.append(Option(typed[2:].replace("-", "_"), (value,) if equals else (), typed))
        elif options:
            options[-1] = options[-1]._replace(values=(*options[-1].values, word))
        else:
            raise UsageError(f"{word!r} belongs to no option: options begin with --, such as --lr 0.001")
    files = [read_config(Path(option.value())) for option in options if option.name == "config"]
    return [*chain(*files), *(option for option in options if option.name != "config")]


def take(options: list[Option], names: tuple[str, ...]) -> Option | None:
    """Remove the options of these names; the last of them, which wins."""
    found = [option for option in options if option.name in names]
    options[:] = [option for option in options if option.name not in names]
    return found[-1] if found else None


def read_config(path: Path) -> list[Option]:
    """The options of a TOML file: names as on the command line at the top, a table for each part of a run.

    Raises DataError when there is no such file or it is not TOML.
    """
    try:
        return [_toml_option(name, value, path) for name, value in _flat(tomllib.loads(read_small_text(path)))]
    except FileNotFoundError:
        raise DataError(f"--config {path}: no such file") from None
    except DataError as error:
        raise DataError(f"--config {error}") from None
    except OSError as error:
        raise DataError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"--config {path}: not TOML ({error})") from None


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        full = prefix + name.replace("-", "_")
        if isinstance(value, Mapping) and not full.endswith("options"):
            yield from _flat(value, f"{full}.")
        else:
            yield full, value


def _toml_option(name: str, value: Any, path: Path) -> Option:
    words = value if isinstance(value, list) else [value]
    if isinstance(value, Mapping):
        words = [f"{key}={json.dumps(item)}" for key, item in value.items()]
    return Option(
        name, tuple(str(word).lower() if isinstance(word, bool) else str(word) for word in words), f"{name} in {path}"
    )
