"""Sets written to shards: whole shards only, resumable after a kill, with checksums. What goes into them a plan says.

A shard is written under another name and renamed when it is whole. Finished shards are kept in a journal, so a run that
was killed goes on after its last shard when the same plan is carried out again; the files are then the same as those of
an undisturbed run. metadata.json is written last.
"""

import abc
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cssm.core.errors import DataError, UsageError
from cssm.core.files import read_small_text

from .formats.arrayrecord import WRITER, write_array_records
from .formats.manifest import LARGEST, METADATA, read_metadata, sha256
from .formats.records import inside, log
from .formats.tfrecord import write_records

JOURNAL = "metadata.partial.jsonl"
Shard = dict[str, Any]  # an entry of the journal and of metadata.json: name, samples, bytes, sha256, perhaps left_out


class LeftOut(NamedTuple):
    """In place of a record: why there is none."""

    message: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(abc.ABC):
    """What is to be written where: a form of sets is a subclass."""

    folder: Path
    splits: dict[str, int]
    """Samples of each split."""
    format: str
    """arrayrecord or tfrecord."""
    shard_size: int
    """Samples of a shard."""
    writer: str = WRITER
    """Options of an ArrayRecord."""

    @abc.abstractmethod
    def header(self) -> dict[str, Any]:
        """What defines the set: two runs with one header write the same files."""

    @abc.abstractmethod
    def name(self, split: str, number: int) -> str:
        """The path of a shard within the folder."""

    @abc.abstractmethod
    def records(self, split: str, begin: int, end: int) -> Iterator[bytes | LeftOut]:
        """The records of the samples begin..end-1 of a split."""

    @abc.abstractmethod
    def about(self, shards: dict[str, list[Shard]]) -> dict[str, Any]:
        """What metadata.json says beside the header and the shards."""

    def carry_out(self, *, progress: bool = False) -> Path:
        """Write what is not there yet; returns the folder.

        Raises UsageError when the folder holds another set, DataError when a finished shard is damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._complete():
            return self.folder
        done = self._finished()
        ready = {s: sum(self._end(s, n) - n * self.shard_size for n in self._numbers(s, done)) for s in self.splits}
        with _bars(self.splits, ready, progress) as advance:
            for split, number in self._shards():
                name = self.name(split, number)
                if name not in done:
                    done[name] = self._write(split, number, advance)
        self._finish(done)
        return self.folder

    def _shards(self) -> Iterator[tuple[str, int]]:
        for split, size in self.splits.items():
            for number in range(-(-size // self.shard_size)):
                yield split, number

    def _numbers(self, split: str, done: dict[str, Shard]) -> list[int]:
        return [number for each, number in self._shards() if each == split and self.name(split, number) in done]

    def _end(self, split: str, number: int) -> int:
        return min(self.splits[split], (number + 1) * self.shard_size)

    def _complete(self) -> bool:
        """Whether the folder holds the whole set already. Raises UsageError when it holds another."""
        path = self.folder / METADATA
        if path.exists():
            self._same(read_metadata(self.folder), path)
        return path.exists()

    def _finished(self) -> dict[str, Shard]:
        """Shards of an earlier run of the same plan, from the journal, which is begun where there is none."""
        journal = self.folder / JOURNAL
        if not journal.exists():
            if any(self.folder.iterdir()):
                raise UsageError(f"{self.folder} is not empty and holds no set: choose an empty or new folder")
            _put(journal, json.dumps(self.header()) + "\n")
        lines = read_small_text(journal, LARGEST).splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # the last may have been cut off
        try:
            self._same(json.loads(whole[0]) if whole else None, journal)
            shards = [json.loads(line) for line in whole[1:]]
            named = [(inside(self.folder, s["name"], str(journal)), s["sha256"]) for s in shards if s["samples"]]
        except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            again = f"delete {self.folder} and start again"
            raise DataError(f"{journal}: not the journal of a set that is being made ({error!r}): {again}") from None
        for path, checksum in named:
            if not path.is_file() or sha256(path) != checksum:
                raise DataError(
                    f"{path}: missing or damaged since it was written: delete {self.folder} and start again"
                )
        _put(journal, "".join(whole))
        return {shard["name"]: shard for shard in shards}

    def _same(self, theirs: dict[str, Any] | None, path: Path) -> None:
        for key, value in self.header().items():
            found = (theirs or {}).get(key)
            if json.loads(json.dumps(value)) != found:
                raise UsageError(f"{path} is of a set with {key} {found}, not {value}: choose another folder")

    def _write(self, split: str, number: int, advance: Callable[[str], None]) -> Shard:
        """Make one shard, put it in place, and enter it in the journal; no file where all its samples are left out."""
        path = self.folder / self.name(split, number)
        part = path.with_name(f"{path.name}.part")
        path.parent.mkdir(exist_ok=True)
        left_out: list[str] = []

        def kept() -> Iterator[bytes]:
            for record in self.records(split, number * self.shard_size, self._end(split, number)):
                advance(split)
                if isinstance(record, LeftOut):
                    left_out.append(record.message)
                    log.warning("left out: %s", record.message)
                else:
                    yield record

        samples = self._write_records(part, kept())
        shard: Shard = {"name": self.name(split, number), "samples": samples, "bytes": part.stat().st_size}
        shard |= {"sha256": sha256(part)} | ({"left_out": left_out} if left_out else {})
        _sync(part)
        if samples:
            os.replace(part, path)
        else:
            part.unlink()
        with open(self.folder / JOURNAL, "a") as file:
            file.write(json.dumps(shard) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return shard

    def _write_records(self, path: Path, records: Iterable[bytes]) -> int:
        if self.format == "tfrecord":
            return write_records(path, records)
        return write_array_records(path, records, self.writer)

    def _finish(self, done: dict[str, Shard]) -> None:
        """Write metadata.json and drop the journal. Raises DataError when nothing of a split could be read."""
        lists: dict[str, list[Shard]] = {split: [] for split in self.splits}
        for split, number in self._shards():
            lists[split].append(done[self.name(split, number)])
        for split, shards in lists.items():
            if not any(shard["samples"] for shard in shards):
                first = shards[0]["left_out"][0]
                raise DataError(f"none of the {self.splits[split]} samples of {split} can be read, the first: {first}")
        written = {split: [_plain(shard) for shard in shards if shard["samples"]] for split, shards in lists.items()}
        metadata = {**self.header(), **self.about(lists), "splits": written}
        _put(self.folder / METADATA, json.dumps(metadata, indent=1) + "\n")
        (self.folder / JOURNAL).unlink(missing_ok=True)


def _plain(shard: Shard) -> Shard:
    return {key: value for key, value in shard.items() if key != "left_out"}


def _put(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    _sync(part)
    os.replace(part, path)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class _bars:
    """A progress bar per split, with its speed; as a context gives `advance(split)` for a sample."""

    def __init__(self, splits: dict[str, int], ready: dict[str, int], shown: bool):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:>5}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}"),
        )  # fmt: skip
        self._progress, self._shown = Progress(*columns, disable=not shown), shown
        self._tasks = {
            split: self._progress.add_task(split, total=size, completed=ready[split], rate="")
            for split, size in splits.items()
        }

    def __enter__(self) -> Callable[[str], None]:
        self._progress.start()
        return self._advance

    def _advance(self, split: str) -> None:
        if not self._shown:
            return
        task = self._tasks[split]
        speed = self._progress.tasks[task].speed
        self._progress.update(task, advance=1, rate=f"{speed:,.0f}/s" if speed else "")

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
