"""Published files of TAP-Vid and what has its form: DAVIS, RGB-Stacking, RoboTAP, Kinetics; .npz; and writing.

| file                      | what it holds                                                                            |
|---------------------------|------------------------------------------------------------------------------------------|
| tapvid_davis.pkl          | dict of name -> video: `video` uint8 (T, H, W, 3), `points` (N, T, 2) in [0, 1],         |
|                           | `occluded` bool (N, T)                                                                   |
| tapvid_rgb_stacking.pkl   | a list of such videos; RoboTAP is a dict in several files                                |
| *_of_0010.pkl             | Kinetics: lists of such videos, `video` a list of JPEGs                                  |
| .npz                      | `video`, `points` or `tracks` (N, T, 2) px, `occluded`, perhaps `query_points` (N, 3)    |

Pickles are read through a list of what may stand in them, NumPy's arrays and plain Python values: one that names
anything else, as code must, is refused. The CSV of Kinetics (753 columns) is `read_kinetics_csv`.
"""

import csv
import importlib
import io
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cssm.core.errors import DataError, UsageError
from cssm.core.files import replacing

from .clips import UNREADABLE
from .folders import listing
from .images import decode_image
from .video import resize_frame

SIDE = 256  # px, at which TAP-Vid evaluates
LARGEST_FILE = 2**36  # bytes
CSV_FRAMES = 250
KINETICS = ("youtube_id", "start_time_sec", "end_time_sec")  # of a row, before three columns a frame


class TapVideo(NamedTuple):
    """One video with the tracks of its points."""

    name: str
    video: Any
    """uint8 (T, H, W, 3), or a list of JPEGs."""
    points: np.ndarray
    """(N, T, 2) (x, y), shares of width and height, 0..1."""
    occluded: np.ndarray
    """bool (N, T)."""
    query_points: np.ndarray | None = None
    """(Q, 3) (t, y, x), y and x shares, where the file has its own."""

    @property
    def steps(self) -> int:
        return len(self.video)

    def frames(self, size: tuple[int, int] | None = (SIDE, SIDE)) -> np.ndarray:
        """uint8 (T, h, w, 3) of (height, width), without keeping the aspect ratio; None: as they are."""
        frames = (f if isinstance(f, np.ndarray) else decode_image(f, self.name) for f in self.video)
        return np.stack([f if size is None else resize_frame(f, size) for f in frames])


def open_tapvid(path: str | Path) -> Iterator[TapVideo]:
    """The videos of a file, or of all .pkl and .npz files of a folder, one after the other.

    Raises:
      DataError: nothing there, damaged, not of this form, or a pickle with anything but arrays and plain values.
    """
    path = Path(path)
    if path.is_dir():
        files = listing(path, (".pkl", ".npz"), "files of TAP-Vid")
    elif path.is_file():
        files = [path]
    else:
        raise DataError(f"no file {path}: give a TAP-Vid file (.pkl, .npz) as --data-dir")
    for file in files:
        yield from _npz(file) if file.suffix.lower() == ".npz" else _pickle(file)


def _pickle(path: Path) -> Iterator[TapVideo]:
    held = read_pickle(path)
    if isinstance(held, dict) and not {"video", "points", "occluded"} <= held.keys():
        items = held.items()
    elif isinstance(held, dict):
        items = [(path.stem, held)]
    elif isinstance(held, list):
        items = [(f"{path.stem}_{i}", value) for i, value in enumerate(held)]
    else:
        raise DataError(f"{path} holds a {type(held).__name__}, expected a dict or list of videos")
    for name, value in items:
        yield _video(f"{path}: {name}", str(name), value)


def _video(where: str, name: str, value: Any) -> TapVideo:
    if not isinstance(value, dict) or not {"video", "points", "occluded"} <= value.keys():
        raise DataError(f"{where}: expected a dict with video, points and occluded")
    video, points, occluded = value["video"], np.asarray(value["points"]), np.asarray(value["occluded"])
    return _checked(where, TapVideo(name, video, points, occluded))


def _checked(where: str, found: TapVideo) -> TapVideo:
    video, points, occluded = found.video, found.points, found.occluded
    jpegs = isinstance(video, (list, tuple)) or (isinstance(video, np.ndarray) and video.dtype == object)
    if jpegs:
        video = [bytes(frame) if isinstance(frame, (bytes, np.bytes_)) else frame for frame in video]
        if not all(isinstance(frame, bytes) for frame in video):
            raise DataError(f"{where}: video is a list of {type(video[0]).__name__}, expected JPEGs")
    elif not (isinstance(video, np.ndarray) and video.dtype == np.uint8 and video.ndim == 4 and video.shape[-1] == 3):
        raise DataError(f"{where}: video is no uint8 (T, H, W, 3) and no list of JPEGs")
    steps = len(video)
    if points.dtype.kind not in "fiu" or points.ndim != 3 or points.shape[1:] != (steps, 2):
        raise DataError(f"{where}: points has shape {points.shape}, expected (N, {steps}, 2)")
    if occluded.shape != points.shape[:2] or occluded.dtype.kind not in "biu":
        raise DataError(f"{where}: occluded has shape {occluded.shape}, expected bool {points.shape[:2]}")
    if not steps or not len(points):
        raise DataError(f"{where}: {steps} frames and {len(points)} points, expected at least one of each")
    points, occluded = points.astype(np.float64), occluded.astype(bool)
    if not np.isfinite(points[~occluded]).all():
        raise DataError(f"{where}: points that are seen are NaN or infinite")
    return found._replace(video=video, points=np.nan_to_num(points), occluded=occluded)


def _npz(path: Path) -> Iterator[TapVideo]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > 2**33:
                raise DataError(f"{path} unpacks to more than {2**33} bytes")
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
    except UNREADABLE as error:
        raise DataError(f"{path} is not a readable .npz ({error})") from None
    tracks = held.get("points", held.get("tracks"))
    if tracks is None or not {"video", "occluded"} <= held.keys():
        raise DataError(f"{path} holds {', '.join(held)}: expected video, points (or tracks) and occluded")
    video = held["video"]
    if video.ndim != 4 or tracks.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: video has shape {video.shape}, tracks are {tracks.dtype}: expected (T, H, W, 3) and floats"
        )
    height, width = video.shape[1:3]
    queries = held.get("query_points")
    if queries is not None:
        if queries.ndim != 2 or queries.shape[1] != 3 or len(queries) != len(tracks):
            raise DataError(f"{path}: query_points has shape {queries.shape}, expected ({len(tracks)}, 3)")
        queries = queries / (1, height, width)
    yield _checked(str(path), TapVideo(path.stem, video, tracks / (width, height), held["occluded"], queries))


def read_pickle(path: Path) -> Any:
    """The arrays and plain values of a pickle. Raises DataError for any other content, and for a damaged file."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise DataError(f"{path} has {size} bytes, more than {LARGEST_FILE}: it is no TAP-Vid file")
    try:
        with path.open("rb") as file:
            return _OnlyArrays(file, encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
        MemoryError, UnicodeError, ImportError, RecursionError, io.UnsupportedOperation,
    ) as error:  # fmt: skip
        raise DataError(f"{path} is no whole pickle ({type(error).__name__}: {error})") from None


NDARRAY = object()  # stands for the class, which a pickle could call with any size


def _empty(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """What NumPy's pickles begin an array with: none of them has a size yet, so none is given."""
    if kind is not NDARRAY or tuple(shape) != (0,):
        raise DataError(f"an array of shape {shape!r} without its data: not what NumPy writes")
    del code
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """How bytes stand in pickles of protocol 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise DataError(f"bytes as {encoding!r}: not what NumPy writes")
    return text.encode("latin1")


def _of_numpy(module: str) -> Any:
    return importlib.import_module(f"numpy._core.{module}")


class _OnlyArrays(pickle.Unpickler):
    """Refuses every name but those with which NumPy writes arrays, numbers and types."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            allowed = {"_reconstruct": _empty, "scalar": _of_numpy("multiarray").scalar}
        elif module in ("numpy.core.numeric", "numpy._core.numeric"):
            allowed = {"_frombuffer": _of_numpy("numeric")._frombuffer}
        else:
            allowed = {"numpy": {"ndarray": NDARRAY, "dtype": np.dtype}, "_codecs": {"encode": _latin1}}.get(module, {})
        if name not in allowed:
            raise DataError(f"it names {module}.{name}, which is neither an array nor a plain value: not read")
        return allowed[name]

    def persistent_load(self, pid: Any) -> Any:
        raise DataError(f"it refers to something outside ({pid!r}): not read")


class KineticsClip(NamedTuple):
    """A clip of the CSV: which part of which video, and its tracks; the frames must be had from elsewhere."""

    youtube_id: str
    start: float
    """s, as is end."""
    end: float
    points: np.ndarray
    """(N, 250, 2) (x, y), shares of width and height."""
    occluded: np.ndarray
    """bool (N, 250)."""


def read_kinetics_csv(path: str | Path) -> list[KineticsClip]:
    """The clips of the Kinetics CSV: a row a point: id, start, end, then x, y, occluded for each of 250 frames.

    Raises:
      DataError: a row of another form.
    """
    rows: dict[tuple[str, float, float], list[np.ndarray]] = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            if number == 1 and row[:1] == [KINETICS[0]]:
                continue
            if len(row) != len(KINETICS) + 3 * CSV_FRAMES:
                raise DataError(f"{path}, row {number}: {len(row)} columns, expected {len(KINETICS) + 3 * CSV_FRAMES}")
            try:
                key = row[0], float(row[1]), float(row[2])
                values = np.array(row[3:], np.float64).reshape(CSV_FRAMES, 3)
            except ValueError as error:
                raise DataError(f"{path}, row {number}: {error}") from None
            rows.setdefault(key, []).append(values)
    return [
        KineticsClip(*key, np.stack(values)[..., :2], np.stack(values)[..., 2] > 0.5) for key, values in rows.items()
    ]


def write_tapvid(path: Path, videos: Iterable[TapVideo]) -> Path:
    """Write videos in the form of tapvid_davis.pkl, which any TAP-Vid reader takes; the file is whole or not there."""
    if path.suffix != ".pkl":
        raise UsageError(f"{path}: what is written is a pickle in the form of DAVIS, give a name that ends in .pkl")
    held = {}
    for video in videos:
        held[video.name] = {
            "video": video.frames(None), "points": video.points.astype(np.float32), "occluded": video.occluded,
        }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new, new.open("wb") as file:
        pickle.dump(held, file, protocol=4)
    return path
