"""TFRecord files: framing with masked CRC-32C checks, random access, GZIP.

A record is: length (uint64, little endian), masked CRC of the length (uint32), the data, masked CRC of the data.
masked = rotate right by 15, plus 0xa282ead8. From TensorFlow's documentation of the format.
"""

import gzip
import hashlib
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from cssm.core.errors import DataError

HEADER, FOOTER = 12, 4  # bytes
LARGEST = 1 << 30  # bytes of a record: no announced length makes us allocate more


def masked_crc(data: bytes) -> int:
    """The masked CRC-32C of `data`.

    >>> hex(masked_crc(b"123456789"))
    '0xc78ab0e5'
    """
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """`data` as one framed record."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def write_records(path: Path, records: Iterable[bytes], *, compression: str | None = None) -> int:
    """Write a TFRecord file, `compression` None or "gzip"; returns the number of records."""
    count = 0
    with gzip.open(path, "wb") if compression == "gzip" else open(path, "wb") as file:
        for data in records:
            file.write(frame(data))
            count += 1
    return count


def index_records(path: Path) -> tuple[np.ndarray, str | None]:
    """Where the records of a file are: (n, 2) int64 offsets and lengths of their data, and what is wrong, if anything.

    Reads and checks the headers only. The second value is None when the file is whole; otherwise it says where it
    breaks, and the index holds the records before that.
    """
    size, offset, spans = path.stat().st_size, 0, []
    with open(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            length, wrong = _length(file.read(HEADER), size - offset)
            if wrong:
                return _table(spans), f"{path}, record {len(spans)}: {wrong}"
            spans.append((offset + HEADER, length))
            offset += HEADER + length + FOOTER
    return _table(spans), None


def _table(spans: list[tuple[int, int]]) -> np.ndarray:
    return np.array(spans, np.int64).reshape(-1, 2)


def _length(header: bytes, room: int) -> tuple[int, str | None]:
    """Length in a record header, and what is wrong with it; `room` bytes are left from the header on."""
    if len(header) < HEADER:
        return 0, "truncated in the record header"
    length, crc = struct.unpack("<QI", header)
    if masked_crc(header[:8]) != crc:
        return 0, "the length does not match its checksum: not a TFRecord file, or damaged"
    if length > LARGEST:
        return 0, f"{length} bytes of data are announced, more than {LARGEST}"
    if HEADER + length + FOOTER > room:
        return 0, f"truncated: {length} bytes of data are announced, {max(room - HEADER - FOOTER, 0)} are left"
    return length, None


class TFRecordFiles:
    """The records of several files, in order, by number; safe to use from several threads.

    Args:
        paths: the files.
        compression: None or "gzip". GZIP allows no random access: such files are unpacked once, into `cache` when it
            is given (and found there again next time), otherwise into a temporary folder that goes with this object.
        cache: a folder for unpacked files.
        skip_corrupt: False: a damaged file is an error. True: what comes after the damage is left out; messages are
            in `left_out`.

    Raises DataError naming file and record for a truncated or foreign file; `read` also when data fail their checksum.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        compression: str | None = None,
        cache: Path | None = None,
        skip_corrupt: bool = False,
    ):
        self.paths, self.left_out = list(paths), []
        self._temporary = None
        self._plain = self.paths
        if compression == "gzip":
            if cache is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="cssm-")
                cache = Path(self._temporary.name)
            self._plain = [self._unpacked(path, cache, skip_corrupt) for path in self.paths]
        tables = [self._index(i, skip_corrupt) for i in range(len(self.paths))]
        self._starts = np.concatenate([[0], np.cumsum([len(table) for table in tables])])
        self._spans = np.concatenate([_table([]), *tables])

    def _index(self, i: int, skip_corrupt: bool) -> np.ndarray:
        spans, wrong = index_records(self._plain[i])
        if wrong and self._plain[i].suffix != ".broken":  # whose damage is known
            wrong = wrong.replace(str(self._plain[i]), str(self.paths[i]))
            if not skip_corrupt:
                raise DataError(wrong)
            self.left_out.append(f"{wrong}; left out to the end of the file")
        return spans

    def _unpacked(self, path: Path, cache: Path, skip_corrupt: bool) -> Path:
        about = path.stat()
        where = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]  # one cache, files of many folders
        target = cache / f"{path.name}.{where}.{about.st_size}.{about.st_mtime_ns}.tfrecord"
        if target.exists():
            return target
        cache.mkdir(parents=True, exist_ok=True)
        wrong = unpack(path, target)
        if not wrong:
            return target
        broken = target.replace(target.with_suffix(".broken"))  # unpacked and reported again next time
        if not skip_corrupt:
            broken.unlink()
            raise DataError(wrong)
        self.left_out.append(f"{wrong}; left out to the end of the file")
        return broken

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def counts(self) -> list[int]:
        """Records of each file."""
        return np.diff(self._starts).tolist()

    def where(self, i: int) -> str:
        """File and number of record i, as errors name it."""
        file = int(np.searchsorted(self._starts, i, "right")) - 1
        return f"{self.paths[file]}, record {i - self._starts[file]}"

    def read(self, i: int) -> bytes:
        """The data of record i, checked against its checksum."""
        offset, length = self._spans[i].tolist()
        with open(self._plain[int(np.searchsorted(self._starts, i, "right")) - 1], "rb") as file:
            file.seek(offset)
            data = file.read(length + FOOTER)
        if len(data) != length + FOOTER:
            raise DataError(f"{self.where(i)}: truncated since the file was opened")
        if masked_crc(data[:length]) != struct.unpack("<I", data[length:])[0]:
            raise DataError(f"{self.where(i)}: the data do not match their checksum")
        return data[:length]


def unpack(path: Path, target: Path) -> str | None:
    """Unpack the GZIP TFRecord `path` into `target`; returns what is wrong with it, None when it is whole.

    Whole records are written, and checked before they are; the file appears under its name only when finished.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    wrong = None
    try:
        with gzip.open(path, "rb") as source, open(part, "wb") as out:
            wrong = _copy_records(source, out, path, target)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return wrong


def _copy_records(source: Any, out: Any, path: Path, target: Path) -> str | None:
    try:
        for framed in _whole_frames(source, path, lambda: shutil.disk_usage(target.parent).free):
            out.write(framed)
    except DataError as error:
        return str(error)
    return None


def _whole_frames(source: Any, path: Path, room: Callable[[], int]) -> Iterator[bytes]:
    """The framed records of a stream, read one after the other; data checksums are not compared. Raises DataError."""
    number = 0
    if isinstance(source, gzip.GzipFile) and not path.stat().st_size:
        raise DataError(f"{path}: an empty file, no GZIP: copy it again")
    try:
        while header := source.read(HEADER):
            length, wrong = _length(header, room())
            if wrong:
                raise DataError(f"{path}, record {number}: {wrong}")
            body = source.read(length + FOOTER)
            if len(body) < length + FOOTER:
                left = f"{length} bytes of data are announced, {len(body)} are left"
                raise DataError(f"{path}, record {number}: truncated: {left}")
            yield header + body
            number += 1
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}, record {number}: not a whole GZIP file ({error})") from error


def iterate_records(path: Path, *, compression: str | None = None) -> Iterator[bytes]:
    """The records of one file in order, all checked, read as they are asked for. DataError names file and record."""
    with gzip.open(path, "rb") if compression == "gzip" else open(path, "rb") as file:
        for number, framed in enumerate(_whole_frames(file, path, lambda: 2 * LARGEST)):
            data = framed[HEADER:-FOOTER]
            if masked_crc(data) != struct.unpack("<I", framed[-FOOTER:])[0]:
                raise DataError(f"{path}, record {number}: the data do not match their checksum")
            yield data
