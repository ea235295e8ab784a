"""Files that may be hostile, and files written whole or not at all."""

import os
from pathlib import Path

import pytest

from cssm.core.errors import DataError, UsageError
from cssm.core.files import check_output, read_small, read_small_text, replacing


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opened for reading it would wait for a writer
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises((DataError, IsADirectoryError)):
            read_small(path)


def test_large_files_and_other_encodings_are_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\xff" * 11)
    with pytest.raises(DataError, match="11 bytes, more than 10"):
        read_small(path, 10)
    with pytest.raises(DataError, match="UTF-8"):
        read_small_text(path)


@pytest.mark.parametrize(
    "name, said", [("a.txt", "ends in .png"), ("a", "ends in .png"), ("f.png", "a folder"), ("x/a.png", "is a file")]
)
def test_outputs_are_honoured_or_refused(tmp_path, name, said):
    (tmp_path / "f.png").mkdir()
    (tmp_path / "x").touch()
    with pytest.raises(UsageError, match=said):
        check_output(tmp_path / name, ".png", "--output")
    assert check_output(tmp_path / "new" / "b.png", ".png", "--output").name == "b.png"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as new:
        new.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]
