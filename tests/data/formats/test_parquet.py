"""Image sets of the Hugging Face hub: rows at random, classes by name, and what can be wrong with a file."""

import sys
import threading

import miniatures
import numpy as np
import pytest
from miniatures import encoded, parquet_file, whole

from cssm.cli import main
from cssm.core.errors import DataError
from cssm.data import ParquetImages, create_dataset
from cssm.data.formats import parquet as parquet_module
from cssm.data.formats.folders import check_numbered
from cssm.data.formats.parquet import split_of


def test_pyarrow_that_is_not_installed_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["data", "preview", "parquet", "--data-dir", str(tmp_path)]) == 2
    err = capsys.readouterr().err.strip()
    assert "data set parquet needs PyArrow: pip install 'cssm[parquet]'" in err and len(err.splitlines()) == 1


def test_splits_are_those_of_the_names(tmp_path):
    names = ("train-00000-of-00001", "validation-0", "test", "extra-0", "readme")
    assert [split_of(tmp_path / f"{name}.parquet") for name in names] == ["train", "val", "test", None, None]
    for name in ("test.parquet", "train-0.parquet"):
        (tmp_path / name).touch()
    assert ParquetImages(root=tmp_path).splits == ("train", "test")
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"data: holds no \.parquet file, expected train-\*\.parquet, validation"):
        ParquetImages(root=tmp_path).source()
    (tmp_path / "data" / "part-0.parquet").touch()
    with pytest.raises(DataError, match="no parquet file with train, validation or test before its first dash"):
        ParquetImages(root=tmp_path).source()


def test_a_missing_file_of_a_numbered_set(tmp_path):
    paths = [tmp_path / f"train-{i:05d}-of-00014.parquet" for i in range(14) if i not in (3, 7)]
    with pytest.raises(DataError, match=r"train-00003-of-00014\.parquet and 1 more: missing, others of its set are"):
        check_numbered(paths)
    assert len(check_numbered(paths, skip_corrupt=True)) == 1
    assert check_numbered([*paths, *(tmp_path / f"train-{i:05d}-of-00014.parquet" for i in (3, 7))]) == []
    assert check_numbered([tmp_path / f"a-{i}-of-3" for i in (1, 2, 3)]) == []
    miniatures.imagenet_records(tmp_path)
    (tmp_path / "imagenet2012-train.records-00001-of-00002").unlink()
    with pytest.raises(DataError, match=r"train\.records-00001-of-00002: missing, others of its set are there"):
        create_dataset("imagenet", data_dir=tmp_path).source("train")
    left = create_dataset("imagenet", data_dir=tmp_path, skip_corrupt=True, size=8).source("train")
    assert len(left) == 5 and "00001-of-00002: missing" in left.left_out[0]


def test_classes_and_labels(tmp_path):
    root = miniatures.parquet_set(tmp_path / "hub")
    data = ParquetImages(root=root, size=8)
    assert data.class_names == ("ant", "bee", "cat") and data.splits == ("train", "val")
    source = data.source("train")
    assert source.known_labels.tolist() == [i % 3 for i in range(10)] == whole(source)["label"].tolist()
    plain = tmp_path / "train-0.parquet"
    parquet_file(plain, [encoded()] * 4, [0, 3, 1, 0], names=None, columns=("img", "fine_label"))
    with pytest.raises(DataError, match=r"train-0\.parquet: no column 'image', it has img, fine_label: give im"):
        ParquetImages(root=tmp_path).source()
    named = ParquetImages(root=tmp_path, image_column="img", label_column="fine_label")
    assert named.class_names == ("0", "1", "2", "3") and named.source()[1]["label"] == 3


def test_rows_at_random_from_many_threads(tmp_path, monkeypatch):
    images = [encoded(i, kind="PNG") for i in range(60)]
    parquet_file(tmp_path / "train-0.parquet", images, list(range(60)), names=None, per_group=7)
    source, wrong, read = ParquetImages(root=tmp_path, size=8).source(), [], []
    load = parquet_module.ParquetFiles._read
    monkeypatch.setattr(parquet_module.ParquetFiles, "_read", lambda *a: (read.append(a[1]), load(*a))[1])
    whole(source)
    assert sorted(read) == list(range(9))  # in order, each row group once

    def look(seed):
        for i in np.random.default_rng(seed).integers(0, 60, 40).tolist():
            if source[i]["input"][0, 0, 0] != i:
                wrong.append(i)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        ([encoded()] * 2, [0, 3], r"row 1: label 3, expected 0\.\.2$"),
        ([encoded()] * 2, [-1, -1], r"row 0: label -1, expected 0\.\.2: a split without labels"),
        ([encoded()] * 2, [0, None], "row 1: no label"),
        ([encoded(), None], [0, 1], "row 1: no bytes in column 'image'"),
        ([encoded(), b""], [0, 1], "row 1: no bytes in column 'image'"),
        ([encoded(), encoded()[:100]], [0, 1], "row 1: not a whole PNG or JPEG"),
        ([], [], "no row in it"),
    ],
)
def test_bad_rows_are_named(tmp_path, images, labels, named):
    parquet_file(tmp_path / "train-0.parquet", images, labels)
    with pytest.raises(DataError, match=rf"train-0\.parquet(, |: ){named}"):
        whole(ParquetImages(root=tmp_path, size=8).source())


def test_bad_rows_are_left_out_when_asked(tmp_path):
    parquet_file(tmp_path / "train-0.parquet", [encoded(), None, encoded()[:100]], [0, 1, 2])
    source = ParquetImages(root=tmp_path, size=8, skip_corrupt=True).source()
    assert whole(source)["valid"].tolist() == [True, False, False] and len(source.left_out) == 2


def test_foreign_files_are_named(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "train-0.parquet"
    parquet_file(path, [encoded()] * 3, [0, 1, 2])
    data = path.read_bytes()
    for cut in (data[:-20], data[:10], b"no parquet"):
        path.write_bytes(cut)
        with pytest.raises(DataError, match=r"train-0\.parquet: not a whole Parquet file .*: copy it again"):
            ParquetImages(root=tmp_path).source()
    path.write_bytes(data[:4] + bytes(200) + data[204:])
    with pytest.raises(DataError, match=r"train-0\.parquet"):
        whole(ParquetImages(root=tmp_path, size=8).source())
    parquet.write_table(arrow.table({"image": ["a.jpg"], "label": [0]}), path)
    with pytest.raises(DataError, match="column 'image' is string, expected a struct of bytes and path"):
        ParquetImages(root=tmp_path).source()
    parquet.write_table(arrow.table({"image": [{"bytes": b"a"}], "label": ["ant"]}), path)
    with pytest.raises(DataError, match="column 'label' is string, expected integers"):
        ParquetImages(root=tmp_path).source()


def test_a_huge_row_group_is_refused(tmp_path, monkeypatch):
    parquet_file(tmp_path / "train-0.parquet", [encoded()] * 3, [0, 1, 2])
    monkeypatch.setattr(parquet_module, "LARGEST_GROUP", 1000)
    with pytest.raises(DataError, match=r"row group 0: \d+ bytes, more than 1000: write smaller ones"):
        whole(ParquetImages(root=tmp_path, size=8).source())


def test_it_is_packed_like_the_others(tmp_path, capsys):
    root = miniatures.parquet_set(tmp_path / "hub")
    assert main(["data", "pack", "parquet", "--data-dir", str(root), "--output", str(tmp_path / "s")]) == 0
    assert "packed 10 train, 4 val photographs of parquet" in capsys.readouterr().out
    data = create_dataset("parquet", data_dir=tmp_path / "s", size=8)
    assert data.class_names == ("ant", "bee", "cat")
    np.testing.assert_array_equal(
        whole(data.source("val"))["label"], whole(ParquetImages(root=root, size=8).source("val"))["label"]
    )
