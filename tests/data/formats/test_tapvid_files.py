"""Files in the form of TAP-Vid: read, written, and refused where they are not what they say."""

import contextlib
import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from cssm.core.errors import DataError, UsageError
from cssm.data.formats.tapvid import CSV_FRAMES, TapVideo, open_tapvid, read_kinetics_csv, read_pickle, write_tapvid

RECONSTRUCT = np.zeros(1).__reduce__()[0]


def video(seed=0, points=3, steps=4):
    rng = np.random.RandomState(seed)
    return {
        "video": rng.randint(0, 255, (steps, 6, 8, 3)).astype(np.uint8),
        "points": rng.rand(points, steps, 2).astype(np.float32),
        "occluded": rng.rand(points, steps) < 0.5,
    }


def dump(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_dicts_and_lists_of_videos_in_every_protocol(tmp_path, protocol):
    for form, names in (({"a": video(0), "b": video(1)}, ["a", "b"]), ([video(0), video(1)], ["x_0", "x_1"])):
        found = list(open_tapvid(dump(tmp_path / "x.pkl", form, protocol)))
        assert [each.name for each in found] == names
        for seed, each in enumerate(found):
            np.testing.assert_array_equal(each.video, video(seed)["video"])
            np.testing.assert_allclose(each.points, video(seed)["points"])
            np.testing.assert_array_equal(each.occluded, video(seed)["occluded"])
            assert each.frames().shape == (4, 256, 256, 3) and each.frames(None).shape == (4, 6, 8, 3)


def test_pickles_of_older_numpy_are_read(tmp_path):
    data = pickle.dumps({"a": video()}, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "old.pkl").write_bytes(data)
    np.testing.assert_array_equal(next(open_tapvid(tmp_path / "old.pkl")).video, video()["video"])


def test_frames_as_jpegs_and_shards_in_a_folder(tmp_path):
    def jpeg(frame):
        file = io.BytesIO()
        Image.fromarray(frame).resize((64, 48)).save(file, "JPEG", quality=95)
        return file.getvalue()

    clip = video()
    jpegs = [jpeg(frame) for frame in clip["video"]]
    for number, held in enumerate((jpegs, np.array(jpegs, object))):
        dump(tmp_path / f"{number:04d}_of_0010.pkl", [clip | {"video": held}])
    found = list(open_tapvid(tmp_path))
    assert [each.name for each in found] == ["0000_of_0010_0", "0001_of_0010_0"]
    for each in found:
        expected = np.stack([np.asarray(Image.fromarray(f).resize((64, 48))) for f in clip["video"]]).astype(int)
        assert np.abs(each.frames(None) - expected).mean() < 12


def test_what_is_written_is_read_back_by_anyone(tmp_path):
    clip = video()
    path = write_tapvid(tmp_path / "new" / "a.pkl", [TapVideo("a", clip["video"], clip["points"], clip["occluded"])])
    plain = pickle.loads(path.read_bytes())  # ours
    assert plain["a"].keys() == clip.keys() and plain["a"]["points"].dtype == np.float32
    assert next(open_tapvid(path)).name == "a"
    with pytest.raises(UsageError, match="give a name that ends"):
        write_tapvid(tmp_path / "a.npz", [])


class Hostile:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Hostile(os.system, ("touch HERE",)), r"names (posix|nt)\.system, which is neither an array"),
        (Hostile(eval, ("open('HERE', 'w')",)), "eval, which is neither"),
        (Hostile(np.load, ("HERE",)), "names numpy"),
        (Hostile(np.ndarray, ((2**40, 2**20),)), "no whole pickle"),
        (Hostile(RECONSTRUCT, (np.ndarray, (2**40,), b"b")), "without its data"),
        (Hostile(bytearray, (2**50,)), "bytearray, which is neither"),
        (Hostile(__import__("codecs").encode, ("aa", "bz2_codec")), "not what NumPy writes"),
    ],
    ids=["system", "eval", "load", "size", "reconstruct", "bytearray", "codec"],
)  # fmt: skip
def test_a_pickle_with_anything_else_is_refused_and_runs_nothing(tmp_path, monkeypatch, value, message):
    monkeypatch.chdir(tmp_path)
    path = dump(tmp_path / "bad.pkl", {"a": value}, protocol=2)
    with pytest.raises(DataError, match=message):
        list(open_tapvid(path))
    assert not (tmp_path / "HERE").exists()


def test_damaged_files_are_one_clear_error(tmp_path):
    whole = pickle.dumps({"a": video()}, protocol=4)
    rng = np.random.RandomState(0)
    for part in (0, 1, 30, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pkl").write_bytes(whole[:part])
        with pytest.raises(DataError, match=r"cut\.pkl"):
            list(open_tapvid(tmp_path / "cut.pkl"))
    for _ in range(60):  # some bytes of it changed: read, or refused
        data = bytearray(whole)
        for at in rng.randint(0, 400, 3):
            data[at] = rng.randint(256)
        (tmp_path / "odd.pkl").write_bytes(bytes(data))
        with contextlib.suppress(DataError):
            list(open_tapvid(tmp_path / "odd.pkl"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros((3, 5, 2))}, r"points has shape \(3, 5, 2\), expected \(N, 4, 2\)"),
        ({"points": np.full((3, 4, 2), np.nan), "occluded": np.zeros((3, 4), bool)}, "NaN"),
        ({"occluded": np.zeros((2, 4), bool)}, r"occluded has shape \(2, 4\)"),
        ({"video": np.zeros((4, 6, 8, 3))}, "no uint8"),
        ({"video": [1, 2, 3, 4]}, "expected JPEGs"),
        ({"points": np.zeros((0, 4, 2)), "occluded": np.zeros((0, 4), bool)}, "at least one of each"),
        ({"video": video()["video"][:0], "points": np.zeros((3, 0, 2)), "occluded": np.zeros((3, 0), "?")}, "0 frames"),
    ],
)  # fmt: skip
def test_videos_of_another_form_are_one_clear_error(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        list(open_tapvid(dump(tmp_path / "a.pkl", {"a": video() | change})))


def test_other_content_is_one_clear_error(tmp_path):
    for value, message in ((3, "holds a int"), ({"a": 3}, "expected a dict with video"), ([{}], "expected a dict")):
        with pytest.raises(DataError, match=message):
            list(open_tapvid(dump(tmp_path / "a.pkl", value)))
    with pytest.raises(DataError, match="no file"):
        list(open_tapvid(tmp_path / "none.pkl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \.pkl"):
        list(open_tapvid(tmp_path / "empty"))
    assert read_pickle(dump(tmp_path / "b.pkl", {"n": np.float32(2.5), "t": (1, None, "a", b"c")}))["n"] == 2.5


def test_npz_with_tracks_in_px(tmp_path):
    clip = video()
    tracks = clip["points"] * (8, 6)
    queries = np.array([[0, 3, 4], [1, 1.5, 2], [2, 0, 8]], float)
    np.savez(tmp_path / "a.npz", video=clip["video"], tracks=tracks, occluded=clip["occluded"], query_points=queries)
    found = next(open_tapvid(tmp_path / "a.npz"))
    np.testing.assert_allclose(found.points, clip["points"], atol=1e-6)
    np.testing.assert_allclose(found.query_points, queries / (1, 6, 8))
    np.savez(tmp_path / "b.npz", video=clip["video"])
    with pytest.raises(DataError, match="expected video, points"):
        next(open_tapvid(tmp_path / "b.npz"))


def test_the_csv_of_kinetics(tmp_path):
    rng = np.random.RandomState(0)
    values = rng.rand(3, CSV_FRAMES, 3)
    values[..., 2] = values[..., 2] < 0.3
    rows = [["abc", 1.0, 11.0], ["abc", 1.0, 11.0], ["de_f-", 3.5, 13.5]]
    lines = [",".join(map(str, [*row, *points.ravel()])) for row, points in zip(rows, values, strict=True)]
    (tmp_path / "k.csv").write_text("\n".join(lines))
    first, second = read_kinetics_csv(tmp_path / "k.csv")
    assert (first.youtube_id, first.start, second.end) == ("abc", 1.0, 13.5) and first.points.shape == (2, 250, 2)
    np.testing.assert_allclose(first.points, values[:2, :, :2])
    np.testing.assert_array_equal(second.occluded[0], values[2, :, 2] == 1)
    (tmp_path / "bad.csv").write_text("abc,1,2,3")
    with pytest.raises(DataError, match="row 1: 4 columns, expected 753"):
        read_kinetics_csv(tmp_path / "bad.csv")
