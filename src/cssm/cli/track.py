"""cssm track: follow points through a video, out of the box."""

import csv
import dataclasses
import itertools
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from cssm.core.errors import UsageError
from cssm.core.files import replacing

from .common import parse, prepare_process

SHEET = 12  # frames of a PNG
MOST_POINTS = 4096
TAIL = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    video: tyro.conf.Positional[str]
    """Video file, GIF, .npz, folder of pictures, or number of a camera."""
    points: str | None = None
    """Points to follow, in px of the video: "t,y,x;t,y,x", t the frame in which a point is at (y, x)."""
    grid: int | None = None
    """Follow a grid of that many by that many points from frame 0; 10 where no points are given."""
    output: Path | None = None
    """Video to write, .mp4, .webm or .gif, or a .png with some frames; default: NAME-tracked.mp4 (.gif without PyAV),
    unless --save is given."""
    save: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """.npz (tracks (N, T, 2) x, y; visible (N, T); query_points (N, 3)) or .csv (point, frame, x, y, visible); may be
    given several times."""
    model: str = "tracker_small"
    """A model that ships with cssm (cssm list pretrained), the folder of a run, or a file of weights.pack."""
    side: int = 256
    """The shorter side of the frames that the model sees, px. Larger: finer and slower."""
    show: Literal["points", "belief"] = "points"
    """belief: beneath the points, where each may be."""
    tail: int = TAIL
    """Frames that a tail is long; 0 for none."""
    frames: int | None = None
    """Stop after so many; a camera runs until Ctrl-C."""
    live: bool = False
    """Print the points of each frame as a line of JSON while the video runs."""


def main(argv: list[str]) -> int:
    flags = parse(
        Flags, argv, "track",
        """Follow points through a video, frame by frame, in memory that does not grow with its length.

        cssm track clip.mp4 --grid 10 --output tracked.mp4
        cssm track clip.mp4 --points "0,120,64;30,200,90" --save tracks.npz --save tracks.csv
        cssm track 0 --live
        """,
    )  # fmt: skip
    from cssm.data.formats.video import open_video
    from cssm.weights import find_tracker

    _check(flags)
    prepare_process()
    source = open_video(flags.video)
    first = next(source.frames)
    size = first.shape[:2]
    queries = _queries(flags, size)
    _check_begun(queries, source.count if flags.frames is None else flags.frames)
    tracker = find_tracker(flags.model)
    output = flags.output or (None if flags.save else _default_output(flags.video))
    frames = itertools.islice(itertools.chain([first], source.frames), flags.frames)
    with ExitStack() as stack:
        sinks = _Sinks(flags, output, size, source.rate, queries, stack)
        count, seconds = _run(tracker, frames, queries, size, source, flags, sinks)
        if count < 2:
            raise UsageError(f"{flags.video} has one frame: there is nothing to follow, give at least two")
        _check_begun(queries, count)
        written = sinks.finish()
    if source.sound and output is not None and output.suffix != ".png":
        print("the sound is left out", file=sys.stderr)
    for path in written:
        print(f"wrote {path}")
    rate = count / max(seconds, 1e-9)
    print(f"{len(queries)} points, {count} frames of {size[1]} x {size[0]}, {rate:.1f} frames/s", file=sys.stderr)
    return 0


def _check(flags: Flags) -> None:
    """UsageError for what cannot be written or asked, before anything is computed."""
    from cssm.data.formats.video import WRITTEN

    if flags.points is not None and flags.grid is not None:
        raise UsageError("give --points or --grid, not both")
    if flags.grid is not None and not 1 <= flags.grid**2 <= MOST_POINTS:
        raise UsageError(f"--grid is {flags.grid}: expected 1..{int(MOST_POINTS**0.5)}")
    for name, low in (("tail", 0), ("frames", 2)):
        value = getattr(flags, name)
        if value is not None and value < low:
            raise UsageError(f"--{name} is {value}: expected {low} or more")
    if flags.save and flags.output is None and (flags.show, flags.tail) != ("points", TAIL):
        raise UsageError("--show and --tail are for a drawing, and with --save alone there is none: add --output")
    if flags.output is not None and (flags.output.suffix.lower() not in (*WRITTEN, ".png") or flags.output.is_dir()):
        raise UsageError(f"--output {flags.output}: give a name that ends in {', '.join((*WRITTEN, '.png'))}")
    for path in flags.save:
        if path.suffix.lower() not in (".npz", ".csv") or path.is_dir():
            raise UsageError(f"--save {path}: give a name that ends in .npz or .csv")


def _check_begun(queries: np.ndarray, count: int | None) -> None:
    late = queries[np.round(queries[:, 0]) >= count] if count is not None else queries[:0]
    if len(late):
        raise UsageError(f"the video has {count} frames: the point of frame {late[0, 0]:.0f} never begins")


def _queries(flags: Flags, size: tuple[int, int]) -> np.ndarray:
    """(n, 3) (t, y, x) px of the video."""
    height, width = size
    if flags.points is None:
        count = 10 if flags.grid is None else flags.grid
        along = (np.arange(count) + 0.5) / count
        y, x = np.meshgrid(along * height, along * width, indexing="ij")
        return np.stack([np.zeros(count**2), y.ravel(), x.ravel()], -1).astype(np.float32)
    points = []
    for word in filter(None, (part.strip() for part in flags.points.split(";"))):
        try:
            t, y, x = (float(v) for v in word.split(","))
        except ValueError:
            raise UsageError(f"--points: {word!r} is no point: give frame,y,x, such as 0,120,64") from None
        if not (t >= 0 and t == int(t) and 0 <= y <= height and 0 <= x <= width):
            raise UsageError(f"--points: {word!r} is outside the video of {width} x {height} px (width x height)")
        points.append((t, y, x))
    if not 1 <= len(points) <= MOST_POINTS:
        raise UsageError(f"--points gives {len(points)} points: expected 1..{MOST_POINTS}")
    return np.array(points, np.float32)


def _default_output(video: str) -> Path:
    import importlib.util

    name = f"camera{video}" if video.isdigit() else Path(video).stem
    return Path(f"{name}-tracked{'.gif' if importlib.util.find_spec('av') is None else '.mp4'}")


def _run(tracker, frames, queries, size, source, flags, sinks) -> tuple[int, float]:
    """Follow the points through the frames; how many there were, and the seconds after the first."""
    from cssm.data.formats.video import resize_frame
    from cssm.models.track_video import stream_points, working_size

    small = working_size(size, flags.side)
    scale = np.array([size[1] / small[1], size[0] / small[0]], np.float32)
    asked = queries.copy()
    asked[:, 1:] /= scale[::-1]
    shown: list[np.ndarray] = []

    def resized():
        for frame in frames:
            shown.append(frame)
            yield resize_frame(frame, small)

    total = source.count if flags.frames is None else min(flags.frames, source.count or flags.frames)
    start, count = time.perf_counter(), 0
    seen_frames = stream_points(tracker, resized(), small, asked, heat=flags.show == "belief")
    try:
        with _progress(disable=flags.live) as progress:
            task = progress.add_task("tracking", total=total, rate=0.0)
            for count, seen in enumerate(seen_frames, 1):
                known = np.round(queries[:, 0]) < count
                sinks.add(shown.pop(), seen.tracks * scale, seen.visible, known, seen.heat)
                if count == 1:
                    start = time.perf_counter()  # without the compilation
                seconds = max(time.perf_counter() - start, 1e-9)
                progress.update(task, completed=count, rate=(count - 1) / seconds)
    except KeyboardInterrupt:
        print("stopped; what was tracked until now is written", file=sys.stderr)
    return count, (time.perf_counter() - start) * count / max(count - 1, 1)


def _progress(disable: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    rate = TextColumn("{task.fields[rate]:.1f} frames/s")
    return Progress(*columns, rate, TimeRemainingColumn(), console=console, disable=disable or not console.is_terminal)


class _Sinks:
    """Where the tracks go, frame by frame: a video or sheet, files, the terminal."""

    def __init__(self, flags: Flags, output: Path | None, size, rate: float, queries, stack: ExitStack):
        from cssm.data.formats.video import writing_video
        from cssm.viz.tracks import TrackPainter, start_colours

        self.flags, self.output, self.queries = flags, output, queries
        self.colours = start_colours(queries[:, :0:-1], size)
        self.painter = TrackPainter(self.colours, size, flags.tail)
        self.video = None
        if output is not None and output.suffix.lower() != ".png":
            self.video = stack.enter_context(writing_video(output, rate))
        self.sheet: list[tuple[int, np.ndarray]] = []
        self.every, self.count = 1, 0
        self.tracks: list[np.ndarray] = []
        self.visible: list[np.ndarray] = []

    def add(self, frame, tracks, visible, known, heat) -> None:
        from cssm.viz.tracks import paint_belief

        t, self.count = self.count, self.count + 1
        if self.output is not None:
            below = frame if heat is None else paint_belief(frame, heat[known], self.colours[known])
            picture = self.painter.paint(below, tracks, visible, known)
            if self.video is not None:
                self.video(picture)
            elif t % self.every == 0:
                self.sheet.append((t, picture))
                if len(self.sheet) > 2 * SHEET:  # every second one, so that any length fits
                    self.sheet, self.every = self.sheet[::2], 2 * self.every
        if self.flags.save:
            self.tracks.append(tracks.astype(np.float32))
            self.visible.append(visible)
        if self.flags.live:
            places = [[round(float(v), 2) for v in xy] for xy in tracks]
            print(json.dumps({"frame": t, "points": places, "visible": visible.tolist()}), flush=True)

    def finish(self) -> list[Path]:
        """Write what is written at the end; all paths."""
        from cssm.viz.tracks import sheet

        written = [] if self.output is None else [self.output]
        if self.output is not None and self.video is None:
            chosen = [self.sheet[i] for i in np.unique(np.linspace(0, len(self.sheet) - 1, SHEET).round().astype(int))]
            sheet([picture for _, picture in chosen], self.output, [f"frame {t}" for t, _ in chosen])
        for path in self.flags.save:
            _save(path, np.stack(self.tracks, 1), np.stack(self.visible, 1), self.queries)
            written.append(path)
        return written


def _save(path: Path, tracks: np.ndarray, visible: np.ndarray, queries: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        if path.suffix.lower() == ".npz":
            with new.open("wb") as file:
                np.savez_compressed(file, tracks=tracks, visible=visible, query_points=queries)
            return
        with new.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("point", "frame", "x", "y", "visible"))
            for n, t in itertools.product(range(len(tracks)), range(tracks.shape[1])):
                if t >= round(float(queries[n, 0])):
                    x, y = tracks[n, t]
                    writer.writerow((n, t, f"{x:.2f}", f"{y:.2f}", int(visible[n, t])))
