"""ArrayRecord files: random access by record number, for files written with group_size:1."""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cssm.core.errors import DataError

# a group is read and unpacked whole: more than one record in it makes random access some ten times slower
WRITER = "group_size:1,zstd:3"
PLAIN = "group_size:1,uncompressed"  # for what is compressed already
READER = "readahead_buffer_size:0,max_parallelism:0"
SIGNATURE = bytes.fromhex("83af70d10d884a3f")  # of every Riegeli file, which ArrayRecord is
ERRORS = (ValueError, RuntimeError, IndexError, OSError)


def write_array_records(path: Path, records: Iterable[bytes], options: str = WRITER) -> int:
    """Write an ArrayRecord file; returns the number of records."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer, count = ArrayRecordWriter(str(path), options), 0
    try:
        for data in records:
            writer.write(data)
            count += 1
    finally:
        writer.close()
    return count


def is_array_record(path: Path) -> bool:
    """Whether a file begins as an ArrayRecord file does."""
    with open(path, "rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


class ArrayRecordFiles:
    """The records of several files, in order, by number; safe to use from several threads, as array_record's readers
    are, of which there is one a file.

    Raises DataError naming file and record for a truncated or foreign file; with `skip_corrupt` a file that is not
    whole (it has lost its index) is left out, with a message in `left_out`.
    """

    def __init__(self, paths: Sequence[Path], *, skip_corrupt: bool = False):
        self.paths, self.left_out = list(paths), []
        self._readers: dict[int, Any] = {}
        self._opening = threading.Lock()
        counts = [self._count(i, skip_corrupt) for i in range(len(self.paths))]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def _count(self, file: int, skip_corrupt: bool) -> int:
        reader = self._reader(file)
        if reader.ok():
            return reader.num_records()
        wrong = f"{self.paths[file]}: not a whole ArrayRecord file"
        if not skip_corrupt:
            raise DataError(f"{wrong}: copy it again, or leave it out with skip_corrupt (--skip-corrupt)")
        self.left_out.append(f"{wrong}; left out")
        return 0

    def _reader(self, file: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        with self._opening:
            if file not in self._readers:
                self._readers[file] = ArrayRecordReader(str(self.paths[file]), READER)
            return self._readers[file]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def counts(self) -> list[int]:
        """Records of each file."""
        return np.diff(self._starts).tolist()

    def _locate(self, i: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, i, "right")) - 1
        return file, int(i - self._starts[file])

    def where(self, i: int) -> str:
        """File and number of record i, as errors name it."""
        file, record = self._locate(i)
        return f"{self.paths[file]}, record {record}"

    def read(self, i: int) -> bytes:
        """The data of record i, checked by the format's own hashes."""
        file, record = self._locate(i)
        try:
            return self._reader(file).read([record])[0]
        except ERRORS as error:
            raise DataError(f"{self.where(i)}: cannot be read ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
