"""Videos of one's own, frame by frame: files through PyAV, folders of pictures, GIF, .npz, .npy, cameras; and writing.

A frame is uint8 (h, w, 3). Frames are decoded when they are asked for: memory does not grow with the length.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cssm.core.errors import DataError, UsageError
from cssm.core.files import replacing

from .clips import read_clip
from .folders import listing
from .images import LARGEST, read_image

RATE = 24.0  # frames a second, where a source does not say
PICTURES = (".png", ".jpg", ".jpeg")
ANIMATED = (".gif", ".webp", ".apng")
ARRAYS = (".npz", ".npy")
FILES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif")
WRITTEN = (".mp4", ".webm", ".gif")
FASTEST = 1000.0  # frames a second: no video has more


class VideoSource(NamedTuple):
    """A video that can be gone through once."""

    name: str
    frames: Iterator[np.ndarray]
    """uint8 (h, w, 3) each, all of one size."""
    rate: float
    """Frames a second."""
    count: int | None
    """How many there are; None where only the end will tell."""
    sound: bool = False
    """Whether there is sound, which is left out."""


def open_video(source: str | Path) -> VideoSource:
    """Open a video file, GIF, folder of pictures, .npz or .npy clip, or a camera by its number ("0").

    Raises:
      DataError: nothing there, damaged, zero frames, too large, or frames of different sizes (while reading).
      UsageError: a video file or camera without PyAV.
    """
    text, path = str(source), Path(source)
    if re.fullmatch(r"\d{1,3}", text) and not path.exists():
        return _camera(int(text))
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise DataError(f"no video {path}: give a file, a folder of pictures, or the number of a camera")
    suffix = path.suffix.lower()
    if suffix in ARRAYS:
        return _array(path)
    return _animation(path) if suffix in ANIMATED else _file(path)


def read_video(source: str | Path, *, most: int = 2**31) -> tuple[np.ndarray, float]:
    """All frames (t, h, w, 3) of a video and its rate. Raises DataError also for one of more than `most` bytes."""
    opened, frames, size = open_video(source), [], 0
    for frame in opened.frames:
        size += frame.nbytes
        if size > most:
            raise DataError(f"{opened.name} unpacks to more than {most} bytes: cut it, or stream it")
        frames.append(frame)
    return np.stack(frames), opened.rate


def is_video(path: Path) -> bool:
    """Whether there is something at a path that `open_video` reads and `read_clip` does not."""
    return path.suffix.lower() not in ARRAYS and path.exists()


def read_clip_or_video(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The clip of an .npz or .npy file as it is, uint8 or float; of a video all frames, scaled and cut to (height,
    width)."""
    if not is_video(path):
        return read_clip(path)
    return np.stack([covering_frame(frame, size) for frame in read_video(path)[0]])


def covering_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3) scaled, its aspect ratio kept, until it covers (height, width), and the middle of that.

    >>> covering_frame(np.zeros((40, 90, 3), np.uint8), (20, 30)).shape
    (20, 30, 3)
    """
    scale = max(size[0] / frame.shape[0], size[1] / frame.shape[1])
    height, width = (max(side, round(scale * n)) for side, n in zip(size, frame.shape[:2], strict=True))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return resize_frame(frame, (height, width))[top : top + size[0], left : left + size[1]]


def resize_frame(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3) resized to (height, width) by Pillow's Lanczos filter, as TAP-Vid does."""
    from PIL import Image

    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.LANCZOS))


def _checked(name: str, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames; DataError where there is none, or their size changes."""
    shape = None
    for index, frame in enumerate(frames):
        if shape is not None and frame.shape != shape:
            raise DataError(
                f"{name}: frame {index} has {frame.shape[1]} x {frame.shape[0]} px, those before {shape[1]} x "
                f"{shape[0]}: give frames of one size"
            )
        shape = frame.shape
        yield frame
    if shape is None:
        raise DataError(f"{name} has no frames: give a video with at least one")


def _folder(path: Path) -> VideoSource:
    files = listing(path, PICTURES, "frames of a video")
    files.sort(key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)])
    return VideoSource(str(path), _checked(str(path), map(read_image, files)), RATE, len(files))


def _array(path: Path) -> VideoSource:
    clip = read_clip(path)
    if clip.dtype != np.uint8 or clip.shape[-1] != 3:
        raise DataError(f"{path} holds {clip.dtype} of shape {clip.shape}: expected uint8 pixels (T, H, W, 3)")
    return VideoSource(str(path), iter(clip), RATE, len(clip))


def _animation(path: Path) -> VideoSource:
    from PIL import Image

    try:
        image = Image.open(path)
        count, duration = getattr(image, "n_frames", 1), image.info.get("duration", 0)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: no animation that Pillow reads ({error})") from error
    if image.width * image.height > LARGEST:
        raise DataError(f"{path}: {image.width} x {image.height} px, more than {LARGEST}")

    def frames():
        for index in range(count):
            try:
                image.seek(index)
                yield np.asarray(image.convert("RGB"))
            except (OSError, SyntaxError, ValueError, EOFError) as error:
                raise DataError(f"{path}: frame {index} is damaged ({error})") from error

    return VideoSource(str(path), _checked(str(path), frames()), 1000 / duration if duration else RATE, count)


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise UsageError(
            "video files and cameras are read and written by PyAV: pip install av (or cssm[video]); without it, .npz, "
            ".gif and folders of pictures can be used"
        ) from error
    return av


def _file(path: Path) -> VideoSource:
    av = _pyav()
    try:
        container = av.open(str(path))
        return _stream(av, str(path), container)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DataError(f"{path}: no video that can be read ({error})") from error


def _camera(number: int) -> VideoSource:
    import sys

    av = _pyav()
    names = {"linux": ("v4l2", f"/dev/video{number}"), "darwin": ("avfoundation", str(number))}
    kind, name = names.get(sys.platform, ("dshow", f"video={number}"))
    try:
        return _stream(av, f"camera {number}", av.open(name, format=kind))
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DataError(f"camera {number} cannot be opened ({error}): is it there, and free?") from error


def _stream(av: Any, name: str, container: Any) -> VideoSource:
    if not container.streams.video:
        container.close()
        raise DataError(f"{name} has no pictures, only sound")
    stream = container.streams.video[0]
    if stream.codec_context.width * stream.codec_context.height > LARGEST:
        raise DataError(f"{name}: {stream.codec_context.width} x {stream.codec_context.height} px, more than {LARGEST}")
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or stream.base_rate or RATE)

    def frames():
        with container:
            try:
                for frame in container.decode(stream):
                    yield _upright(frame.to_ndarray(format="rgb24"), getattr(frame, "rotation", 0))
            except (av.error.FFmpegError, ValueError) as error:
                raise DataError(f"{name} is damaged or cut off ({error})") from error

    rate = rate if 0 < rate <= FASTEST else RATE
    return VideoSource(name, _checked(name, frames()), rate, stream.frames or None, bool(container.streams.audio))


def _upright(frame: np.ndarray, rotation: int) -> np.ndarray:
    """A frame turned as the file says, which phones set."""
    turns = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(frame, turns)) if turns else frame


@contextmanager
def writing_video(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that adds a frame (h, w, 3) to the video at `path`, which is there, whole, when the block ends.

    .mp4 (H.264) and .webm (VP9) are written through PyAV, frame by frame, their odd sides cut by a px; .gif by Pillow,
    which holds all frames until the end.

    Raises:
      UsageError: another suffix, or no PyAV.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITTEN:
        raise UsageError(f"{path}: videos are written as {', '.join(WRITTEN)}, give a name that ends so")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new, (_gif if suffix == ".gif" else _encoder)(new, suffix, rate) as add:
        yield add


@contextmanager
def _gif(path: Path, suffix: str, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    from PIL import Image

    del suffix
    frames: list[Any] = []
    yield lambda frame: frames.append(Image.fromarray(frame).quantize(128, dither=Image.Dither.NONE))
    if frames:
        duration = max(20, round(1000 / rate))
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0)


@contextmanager
def _encoder(path: Path, suffix: str, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    av = _pyav()
    codec = "h264" if suffix == ".mp4" else "vp9"
    with av.open(str(path), "w", format=suffix[1:]) as container:
        stream: Any = None

        def add(frame: np.ndarray) -> None:
            nonlocal stream
            height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2  # 4:2:0 has even sides
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = max(width, 2), max(height, 2), "yuv420p"
                stream.options = {"crf": "18"} if codec == "h264" else {"crf": "30", "b": "0"}
            image = np.ascontiguousarray(frame[: stream.height, : stream.width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)

        yield add
        if stream is not None:
            for packet in stream.encode():
                container.mux(packet)
