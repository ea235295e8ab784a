"""Videos of one's own: read frame by frame, written whole."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from cssm.core.errors import DataError, UsageError
from cssm.data.formats import video as module
from cssm.data.formats.video import open_video, read_clip_or_video, read_video, resize_frame, writing_video

PYAV = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed")


@pytest.fixture(scope="module")
def clip():
    """(9, 32, 48, 3): a square that moves over a ramp."""
    frames = np.tile(np.linspace(0, 200, 48).astype(np.uint8)[None, None, :, None], (9, 32, 1, 3))
    for t in range(9):
        frames[t, 8:20, 3 * t : 3 * t + 12] = (250, 40, 40)
    return frames


def write(path, frames, rate=25.0):
    with writing_video(path, rate) as add:
        for frame in frames:
            add(frame)
    return path


@pytest.mark.parametrize("suffix", [pytest.param(".mp4", marks=PYAV), pytest.param(".webm", marks=PYAV), ".gif"])
def test_what_is_written_is_read_back(tmp_path, clip, suffix):
    source = open_video(write(tmp_path / f"a{suffix}", clip))
    frames = np.stack(list(source.frames))
    assert frames.shape == clip.shape and frames.dtype == np.uint8
    assert source.rate == pytest.approx(25, rel=0.01) and source.count in (9, None) and not source.sound
    assert np.abs(frames.astype(int) - clip).mean() < 8
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@PYAV
def test_odd_sides_lose_a_row_and_no_more(tmp_path, clip):
    frames, _ = read_video(write(tmp_path / "a.mp4", clip[:, :31, :47]))
    assert frames.shape == (9, 30, 46, 3)


def test_folders_are_read_in_the_order_of_their_numbers(tmp_path, clip):
    for t in (0, 2, 10):
        Image.fromarray(np.full((4, 6, 3), t, np.uint8)).save(tmp_path / f"frame{t}.png")
    (tmp_path / "._frame1.png").write_bytes(b"rubbish")
    source = open_video(tmp_path)
    assert source.count == 3 and [int(frame[0, 0, 0]) for frame in source.frames] == [0, 2, 10]
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "frame11.png")
    with pytest.raises(DataError, match=r"frame 3 has 6 x 5 px, those before 6 x 4: give frames of one size"):
        list(open_video(tmp_path).frames)


def test_arrays(tmp_path, clip):
    np.savez(tmp_path / "a.npz", video=clip)
    np.testing.assert_array_equal(read_video(tmp_path / "a.npz")[0], clip)
    np.save(tmp_path / "a.npy", clip.astype(np.float32) / 255)
    with pytest.raises(DataError, match="expected uint8 pixels"):
        open_video(tmp_path / "a.npy")


def test_a_failure_leaves_nothing(tmp_path, clip):
    with pytest.raises(RuntimeError), writing_video(tmp_path / "a.gif", 25.0) as add:
        add(clip[0])
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@PYAV
def test_a_video_that_is_cut_off_is_one_clear_error(tmp_path, clip):
    path = write(tmp_path / "a.mp4", np.random.RandomState(0).randint(0, 255, (30, 64, 64, 3)).astype(np.uint8))
    data = path.read_bytes()
    for part in (10, len(data) // 2, len(data) - 200):
        (tmp_path / "cut.mp4").write_bytes(data[:part])
        with pytest.raises(DataError, match=r"cut.mp4: no video that can be read|is damaged or cut off"):
            list(open_video(tmp_path / "cut.mp4").frames)
    (tmp_path / "text.mp4").write_text("no video at all" * 100)
    with pytest.raises(DataError, match="no video that can be read"):
        open_video(tmp_path / "text.mp4")


def test_what_is_not_there_is_one_clear_error(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="give a file, a folder of pictures, or the number of a camera"):
        open_video(tmp_path / "nothing.mp4")
    with pytest.raises(DataError, match=r"holds no \.png"):
        open_video(tmp_path)
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + b"rubbish")
    with pytest.raises(DataError, match="no animation"):
        open_video(tmp_path / "a.gif")
    with (
        pytest.raises(UsageError, match=r"videos are written as .mp4, .webm, .gif"),
        writing_video(tmp_path / "a.avi", 2.0),
    ):
        pass
    (tmp_path / "a.mp4").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UsageError, match="pip install av"):
        open_video(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match="pip install av"):
        open_video("0")


@PYAV
def test_a_camera_that_is_not_there_is_one_clear_error():
    with pytest.raises(DataError, match="camera 77 cannot be opened"):
        open_video("77")


def test_a_video_larger_than_asked_for_is_refused(tmp_path, clip):
    np.savez(tmp_path / "a.npz", video=clip)
    with pytest.raises(DataError, match="unpacks to more than 10000 bytes"):
        read_video(tmp_path / "a.npz", most=10_000)


def test_frames_are_turned_and_resized(clip):
    frame = clip[0]
    assert resize_frame(frame, (16, 24)).shape == (16, 24, 3) and resize_frame(frame, (32, 48)) is frame
    np.testing.assert_array_equal(module._upright(clip[0], 90), np.rot90(clip[0]))


@PYAV
def test_sound_is_said_to_be_there(tmp_path, clip):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video, sound = container.add_stream("h264", rate=25), container.add_stream("aac", rate=8000)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        for frame in clip:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        samples = np.zeros((1, 2048), np.float32)
        heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        heard.sample_rate = 8000
        container.mux(sound.encode(heard))
        for stream in (video, sound):
            container.mux(stream.encode())
    source = open_video(tmp_path / "a.mp4")
    assert source.sound and len(list(source.frames)) == 9


def test_clips_and_videos_for_other_models(tmp_path, clip):
    np.savez(tmp_path / "a.npz", video=clip.astype(np.float32) / 255)
    assert read_clip_or_video(tmp_path / "a.npz", (8, 8)).shape == clip.shape, "arrays as they are"
    write(tmp_path / "a.gif", clip)
    small = read_clip_or_video(tmp_path / "a.gif", (16, 16))
    assert small.shape == (9, 16, 16, 3)
    middle = resize_frame(clip[0], (16, 24))[:, 4:20]
    assert np.abs(small[0].astype(int) - middle).mean() < 8, "scaled to cover, and the middle of it"
    with pytest.raises(DataError, match="no clip"):
        read_clip_or_video(tmp_path / "none.mp4", (8, 8))
