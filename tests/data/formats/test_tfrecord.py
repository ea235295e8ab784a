import gzip
import struct
import threading

import numpy as np
import pytest

from cssm.core.errors import DataError
from cssm.data.formats.example import Example, encode_example
from cssm.data.formats.tfrecord import TFRecordFiles, frame, iterate_records, masked_crc, write_records

RECORDS = [b"", b"a", bytes(range(256)) * 20, b"last"]


@pytest.fixture
def path(tmp_path):
    write_records(tmp_path / "a.tfrecord", RECORDS)
    return tmp_path / "a.tfrecord"


def test_masked_crc_of_the_check_value():
    """CRC-32C of "123456789" is 0xE3069283 (RFC 3720); masked by hand."""
    crc = 0xE3069283
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_framing_byte_by_byte():
    """The record of b"abc", checksums by a bitwise CRC-32C of this test's own."""

    def crc(data):
        value = 0xFFFFFFFF
        for byte in data:
            value ^= byte
            for _ in range(8):
                value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        value ^= 0xFFFFFFFF
        return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) % 2**32)

    length = (3).to_bytes(8, "little")
    assert frame(b"abc") == length + crc(length) + b"abc" + crc(b"abc")


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_random_access_over_several_files(tmp_path, compression):
    for name, records in (("a", RECORDS), ("b", [b"x", b"yy"])):
        write_records(tmp_path / name, records, compression=compression)
    files = TFRecordFiles([tmp_path / "a", tmp_path / "b"], compression=compression)
    assert len(files) == 6
    assert [files.read(i) for i in (5, 0, 2, 4)] == [b"yy", b"", RECORDS[2], b"x"]
    assert files.where(4) == f"{tmp_path / 'b'}, record 0"
    assert list(iterate_records(tmp_path / "a", compression=compression)) == RECORDS


def test_threads_read_together(path):
    files, wrong = TFRecordFiles([path]), []

    def work():
        wrong.extend(i for i in list(range(4)) * 50 if files.read(i) != RECORDS[i])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_every_truncation_is_refused_by_name(path):
    """Cut anywhere but between records; skip_corrupt keeps the records before the cut."""
    whole = path.read_bytes()
    ends = np.cumsum([len(frame(r)) for r in RECORDS])
    for cut in [*range(1, 40), *range(len(whole) - 30, len(whole))]:
        path.write_bytes(whole[:cut])
        before = int((ends <= cut).sum())
        if cut in ends:
            assert len(TFRecordFiles([path])) == before
            continue
        with pytest.raises(DataError, match=rf"a\.tfrecord, record {before}: truncated"):
            TFRecordFiles([path])
        files = TFRecordFiles([path], skip_corrupt=True)
        assert len(files) == before and len(files.left_out) == 1


def test_every_flipped_bit_is_found(path):
    whole = bytearray(path.read_bytes())
    for at in [*range(0, 40), *range(len(whole) - 20, len(whole))]:
        damaged = whole.copy()
        damaged[at] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.tfrecord, record \d"):
            files = TFRecordFiles([path])
            for i in range(len(files)):
                files.read(i)


def test_foreign_and_hostile_files(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"\x89PNG, not a record file at all")
    with pytest.raises(DataError, match="record 0: the length does not match its checksum"):
        TFRecordFiles([path])
    length = struct.pack("<Q", 2**62)
    path.write_bytes(length + struct.pack("<I", masked_crc(length)))
    with pytest.raises(DataError, match="are announced, more than"):
        TFRecordFiles([path])
    path.write_bytes(gzip.compress(length + struct.pack("<I", masked_crc(length))))
    with pytest.raises(DataError, match="are announced, more than"):
        TFRecordFiles([path], compression="gzip")
    path.write_bytes(b"not gzip")
    with pytest.raises(DataError, match="record 0: not a whole GZIP file"):
        TFRecordFiles([path], compression="gzip")


def test_truncated_gzip(tmp_path):
    path, cache = tmp_path / "x", tmp_path / "cache"
    data = [np.random.default_rng(i).bytes(2000) for i in range(5)]
    write_records(path, data, compression="gzip")
    path.write_bytes(path.read_bytes()[:-3000])
    for _ in range(2):  # nothing half done stays in the cache
        with pytest.raises(DataError, match="record 3: "):
            TFRecordFiles([path], compression="gzip", cache=cache)
        files = TFRecordFiles([path], compression="gzip", cache=cache, skip_corrupt=True)
        assert len(files) == 3 and files.read(2) == data[2] and len(files.left_out) == 1


def test_gzip_cache_is_used_again(tmp_path):
    path, cache = tmp_path / "x", tmp_path / "cache"
    write_records(path, RECORDS, compression="gzip")
    TFRecordFiles([path], compression="gzip", cache=cache)
    (unpacked,) = cache.iterdir()
    stamp = unpacked.stat().st_mtime_ns
    assert TFRecordFiles([path], compression="gzip", cache=cache).read(3) == b"last"
    assert unpacked.stat().st_mtime_ns == stamp


def message(number, payload):
    """Protobuf by hand: one length-delimited field."""
    out, size = bytes([number << 3 | 2]), len(payload)
    while size > 127:
        out, size = out + bytes([size & 127 | 128]), size >> 7
    return out + bytes([size]) + payload


def test_example_wire_format_by_hand():
    """bytes, packed int64 and packed float features, written byte by byte."""
    features = {
        b"image": message(1, message(1, b"\x00\xff")),
        b"label": message(3, message(1, b"\x96\x01")),  # varint 150
        b"score": message(2, message(1, struct.pack("<f", 1.5))),
    }
    entries = b"".join(message(1, message(1, key) + message(2, value)) for key, value in features.items())
    data = message(1, entries)
    example = Example(data, "here")
    assert example.bytes("image") == b"\x00\xff" and example.integer("label") == 150
    assert example.floats("score", 1).tolist() == [1.5]
    assert encode_example({"image": b"\x00\xff", "label": 150, "score": 1.5}) == data


def test_example_errors_name_the_record():
    example = Example(encode_example({"label": [1, 2], "image": b"abc"}), "f, record 7")
    with pytest.raises(DataError, match="f, record 7: no feature 'video', it has image, label"):
        example.bytes("video")
    with pytest.raises(DataError, match="f, record 7: feature 'label' is not one int64"):
        example.integer("label")
    with pytest.raises(DataError, match="not one bytes"):
        example.bytes("label")
    with pytest.raises(DataError, match=r"f, record 7: 'image' has 3 bytes, not those of \(2, 2\) uint8"):
        example.array("image", "uint8", (2, 2))
    with pytest.raises(DataError, match="3 bytes"):
        example.array("image", "uint8", (-1, -3))
    with pytest.raises(DataError, match="3 bytes"):  # a product that overflows int64
        example.array("image", "uint8", (2**40, 2**40))
    with pytest.raises(DataError, match=r"f, record 7: not a tf\.Example"):
        Example(b"\xff\xff\xff", "f, record 7")
