"""Absurd numbers, special files, other outputs: one line each, before anything is allocated or built."""

import os
import struct
import zipfile

import numpy as np
import pytest

from cssm.cli import main

WIDE = "the model takes"
BAD = {
    "train demo --save_best_only": "always kept",
    "train demo --stem_norm_order pre": "is no option here",
    "train demo --tf_parallel_reads 4": "is no option here",
    "train demo --tf_prefetch_batches 4": "give --prefetch",
    "train demo --delta_key_dim 4": "is no option here",
    "train demo --seed 18446744073709551616": "--seed 18446744073709551616: seed is",
    "train demo --steps 99999999999": "--steps 99999999999: steps is",
    "train demo --depth 1000000": "--depth 1000000: depth is 1000000",
    "train demo --embed-dim 1000000": WIDE,
    "train demo --embed-dim 1000000000": WIDE,
    "train demo --mixer-options channels=3": "channels in mixer_options",
    "train demo --mixer-options rngs=3": "rngs in mixer_options",
    "train demo --mixer-options grid=3": "grid in mixer_options",
    "train demo --config pipe": "no regular file",
    "train --config /dev/zero": "no regular file",
    "data preview pathtracker --output a.xyz": "ends in .png",
    "data preview pathtracker --output .": "ends in .png",
    "data clip pathtracker --output a.txt": "ends in .npz",
    "viz impulse no_gate --output a.pdf": "ends in .png",
    "train demo --out ''": "the word after --out is empty",
    "predict pipes ''": "the word after pipes is empty",
    "data make pathtracker --out x --val -3": "--val is -3",
    "data preview pathfinder --samples 100000": "give 1 to 512",
    "viz impulse no_gate --frames 1000000": "at most 256",
    "train demo --mixer-options memory=nan": "memory is 'nan', expected float",
    "data clip pathtracker --output ..": "ends in .npz",
    "data clip pathtracker --output pipes": "ends in .npz",
    "data clip pathtracker --output c.npz --index 99999999999999999999": "--index is 9",
    "data preview pathtracker --samples -1": "--samples is -1",
    "data make pathtracker --out dz --train 4 --seed -1": "seed -1 is outside",
    "data clip pathtracker --output /proc/c.npz": "/proc/c.npz: ",
    "bench --op decay_scan --budget -1": "--budget is -1",
    "bench --op decay_scan --budget nan": "--budget is nan",
    "--verson": "did you mean '--version'",
    "eval pipes": "no regular file",
    "inspect pipes": "no regular file",
    "stream pipes --input huge.npy": "truncated or foreign",
    "stream pipes --input huge.npz": "truncated or foreign",
    "stream pipes --input bright.npy": "holds values up to 1e+36",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "config.json")
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4000000, 1000, 1000, 3), }"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    (tmp_path / "huge.npy").write_bytes(array)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("video.npy", array)
    np.save(tmp_path / "bright.npy", np.full((2, 8, 8, 3), 1e36, np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", BAD)
def test_one_line_and_nothing_written(here, line, capsys):
    before = sorted(os.listdir(here))
    assert main([word.strip("'") for word in line.split()]) in (1, 2)
    heard = capsys.readouterr()
    assert heard.err.startswith("cssm: error: ") and heard.err.count("\n") == 1 and not heard.out
    assert BAD[line] in heard.err
    assert sorted(os.listdir(here)) == before


def test_floats_that_look_like_bytes_are_told(here, capsys):
    from cssm.data.formats.clips import read_clip

    np.save(here / "bytes.npy", np.full((2, 8, 8, 3), 255.0, np.float32))
    assert read_clip(here / "bytes.npy").max() == 255
    assert "save them as uint8" in capsys.readouterr().err
