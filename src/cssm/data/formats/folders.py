"""What is in a folder of data: hidden and foreign names are passed over, a link that leads nowhere is an error."""

import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cssm.core.errors import DataError

log = logging.getLogger("cssm.data")
# folders that file servers, archives and notebooks leave behind (hidden ones beside them)
HOUSEKEEPING = {"@eadir", "__macosx", "__pycache__", "#recycle", "$recycle.bin", "lost+found"}
# name.tfrecord, name.array_record-00000-of-00064, name.gz, train-00000-of-01024, shard_7
RECORD = re.compile(
    r".*\.(tfrecords?|tfrec|array_?records?|records?)(-\d+(-of-\d+)?)?(\.gz)?|[^.]*\d[^.]*(\.gz)?", re.IGNORECASE
)
NUMBERED = re.compile(r"(?P<before>.*)-(?P<number>\d+)-of-(?P<count>\d+)(?P<after>.*)", re.ASCII)
FOREIGN = re.compile(r"[A-Z0-9_]+|.*sums?", re.ASCII)  # README, SHA256SUMS


def is_hidden(name: str) -> bool:
    """Whether a name is no data, in any folder.

    >>> [is_hidden(name) for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "ant")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in HOUSEKEEPING


def is_record(name: str) -> bool:
    """Whether a file is one of records, by its name.

    >>> [is_record(name) for name in ("train-00000-of-01024", "a.tfrecord", "train-3.gz", "notes.txt", "SHA256SUMS")]
    [True, True, True, False, False]
    """
    return bool(RECORD.fullmatch(name)) and not FOREIGN.fullmatch(name)


def folder(path: Path, what: str) -> Path:
    """`path`, or DataError when there is no such folder."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder, expected {what}")
    return path


def subfolders(path: Path, what: str) -> list[Path]:
    """The folders in `path` that are not hidden, by name. DataError for a link that leads nowhere."""
    with os.scandir(folder(path, what)) as entries:
        shown = sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    return [path / entry.name for entry in shown if _is(entry, "folder")]


def listing(path: Path, suffixes: tuple[str, ...], what: str, *, dangling: bool = False) -> list[Path]:
    """Files of a folder with one of `suffixes` (lower case), by name; hidden ones are left out.

    A link that leads nowhere is an error, or with `dangling` a file like the others. Raises DataError when there is
    none.
    """
    with os.scandir(folder(path, what)) as entries:
        fitting = [e for e in entries if e.name.lower().endswith(suffixes) and not is_hidden(e.name)]
    names = sorted(e.name for e in fitting if (dangling and _leads_nowhere(e)) or _is(e, "file"))
    if not names:
        kind = f"{' or '.join(suffixes)} file".lstrip()
        raise DataError(f"{path}: holds no {kind}, expected {what}")
    return [path / name for name in names]


def record_listing(path: Path, what: str) -> list[Path]:
    """Files of a folder that are records by name; the others are passed over, with a line. DataError for none."""
    files = listing(path, ("",), what)
    records = [file for file in files if is_record(file.name)]
    if not records:
        raise DataError(f"{path}: none of its {len(files)} files is a record by its name, expected {what}")
    if foreign := [file.name for file in files if file not in records]:
        _say_once(f"{path}: passed over {len(foreign)} files that are no records by their names, such as {foreign[0]}")
    return records


def check_numbered(paths: Sequence[Path], *, skip_corrupt: bool = False) -> list[str]:
    """DataError where files that are numbered, such as train-00003-of-00014, are not all there; with skip_corrupt the
    messages alone.

    >>> check_numbered([Path("a-00000-of-00003"), Path("a-00002-of-00003")], skip_corrupt=True)
    ['a-00001-of-00003: missing, others of its set are there: copy it, or leave it out with skip_corrupt']
    """
    sets: dict[tuple[str, str, str], set[int]] = {}
    for path in paths:
        if found := NUMBERED.fullmatch(path.name):
            sets.setdefault((found["before"], found["count"], found["after"]), set()).add(int(found["number"]))
    wrong = []
    for (before, count, after), numbers in sets.items():
        expected = set(range(min(int(count), 10**6)))
        missing = sorted(expected - numbers) if numbers != {n + 1 for n in expected} else []  # some count from 1
        for number in missing[:1]:
            name = paths[0].with_name(f"{before}-{number:0{len(count)}d}-of-{count}{after}")
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            wrong.append(
                f"{name}{more}: missing, others of its set are there: copy it, or leave it out with skip_corrupt"
            )
    if wrong and not skip_corrupt:
        raise DataError(wrong[0])
    return wrong


@functools.cache
def _say_once(message: str) -> None:
    log.warning("%s", message)


def _is(entry: os.DirEntry, kind: str) -> bool:
    if _leads_nowhere(entry):
        raise DataError(f"{entry.path}: a link to {os.readlink(entry.path)}, where nothing is: mend or remove it")
    return entry.is_dir() if kind == "folder" else entry.is_file()


def _leads_nowhere(entry: os.DirEntry) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)
