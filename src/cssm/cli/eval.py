"""cssm eval: the figures of a run's best checkpoint, with the baseline beside them."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any, Literal

from cssm.core.errors import UsageError
from cssm.core.files import replacing

from .common import SavedRun, parse, prepare_process


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(SavedRun):
    probe: Literal["linear", "knn"] | None = None
    """A probe of the model's frozen features, averaged over space and frames, in place of the model's own answer:
    fitted to the training split, beside the same on features of random parameters, and on pixels."""
    split: Literal["test", "val"] = "test"
    """The test split took no part in training or in the choice of the checkpoint."""
    batch_size: int | None = None
    """Rows at a time; None: as in training. Halved when memory runs out."""
    data_dir: Path | None = None
    """Where the run's files are, if they have moved; with --dataset, its file or folder."""
    dataset: str | None = None
    """Of a point tracker: other videos, judged as TAP-Vid does: synthetic-v1-easy, synthetic-v1-hard, tapvid_davis,
    tapvid_rgb_stacking, tapvid_kinetics, robotap. RUN may then be a model that ships with cssm."""
    query_mode: Literal["first", "strided"] = "first"
    """With --dataset: each point from the first frame it is seen in, or from every fifth, to both sides."""
    videos: int | None = None
    """With --dataset: the first so many videos."""


def main(argv: list[str]) -> int:
    flags = parse(Flags, argv, "eval", "The figures of a run's best checkpoint on a split, beside the baseline.")
    prepare_process()
    if flags.dataset is not None:
        if flags.probe is not None:
            raise UsageError("--probe is for a run's own data: leave it or --dataset out")
        return _points(flags)
    if flags.probe is not None:
        return _probe(flags)
    if (flags.query_mode, flags.videos) != ("first", None):
        raise UsageError("--query-mode and --videos are for --dataset: add it, or leave them out")
    from cssm.recipes import baseline_of, load_run, sums_of
    from cssm.viz.figure import figure

    if flags.batch_size is not None and flags.batch_size < 1:
        raise UsageError(f"--batch-size is {flags.batch_size}: give at least one row")
    run, model = load_run(flags.run, flags.checkpoint, flags.data_dir)
    sums = sums_of(run, model, flags.split, flags.batch_size)
    figures, details = run.task.summarise(sums), run.task.details(sums)
    baseline = baseline_of(run, flags.split)
    beside = {} if baseline is None else {baseline.name: baseline.value}
    record = {"split": flags.split, "checkpoint": flags.checkpoint, **figures, **beside}
    with replacing(flags.run / f"eval-{flags.split}.json") as new:
        new.write_text(json.dumps(record | details) + "\n")
    print(f"{flags.split} {run.task.describe(figures)}")
    if baseline is not None:
        print(f"{baseline.title} {baseline}")
    if details:
        print(run.task.show_details(details))
        path = flags.run / f"eval-{flags.split}.png"
        with figure(path) as empty:
            run.task.draw_details(empty, details)
        print(f"confusion: {path}")
    print(json.dumps(record))
    return 0


def _probe(flags: Flags) -> int:
    """A linear or k-NN probe of a run's features."""
    from rich.console import Console
    from rich.table import Table

    from cssm.data.baselines import Baseline
    from cssm.recipes import baseline_of, load_run
    from cssm.recipes.probe import neighbours_of, probe

    if (flags.query_mode, flags.videos, flags.batch_size) != ("first", None, None):
        raise UsageError("--query-mode, --videos and --batch-size are not for --probe: leave them out")
    run, model = load_run(flags.run, flags.checkpoint, flags.data_dir)
    found = probe(str(flags.probe), run, model, flags.split)
    baseline = baseline_of(run, flags.split)
    counts = f"{found['train_count']:.0f} training samples, {found['count']:.0f} of {flags.split}"
    kind = "linear" if flags.probe == "linear" else f"{neighbours_of(run)}-nearest-neighbour"
    table = Table("features", "accuracy", title=f"{kind} probe, {counts}", title_justify="left")
    for name, title in (("features", "of the model"), ("random", "of random parameters"), ("pixels", "pixels")):
        error = (found[name] * (1 - found[name]) / found["count"]) ** 0.5
        table.add_row(title, str(Baseline(name, found[name], error, int(found["count"]))))
    beside = {} if baseline is None else {baseline.name: baseline.value}
    if baseline is not None:
        table.add_row(baseline.title, str(baseline))
    Console().print(table)
    record = {"split": flags.split, "checkpoint": flags.checkpoint, "probe": flags.probe, **found, **beside}
    with replacing(flags.run / f"eval-{flags.split}-{flags.probe}.json") as new:
        new.write_text(json.dumps(record) + "\n")
    print(json.dumps(record))
    return 0


COLUMNS = {
    "AJ": "average_jaccard",
    "within": "average_pts_within_thresh",
    "OA": "occlusion_accuracy",
    "AJ after return": "jaccard_after_return",
}


def _points(flags: Flags) -> int:
    """A tracker on the videos of --dataset."""
    from rich.console import Console
    from rich.progress import track as bar

    from cssm.recipes.points import answers, as_standing_still, point_videos, score_all
    from cssm.weights import find_tracker

    if (flags.split, flags.batch_size) != ("test", None):
        raise UsageError("--split and --batch-size are for the run's own data: leave them or --dataset out")
    if flags.videos is not None and flags.videos < 1:
        raise UsageError(f"--videos is {flags.videos}: give at least one")
    tracker = find_tracker(str(flags.run), flags.checkpoint)
    videos = itertools.islice(point_videos(str(flags.dataset), flags.data_dir), flags.videos)
    console, both = Console(stderr=True), flags.query_mode == "strided"
    seen = bar(videos, "videos", total=flags.videos, console=console, disable=not console.is_terminal)
    track = lambda video, queries: tracker.track(video, queries, bidirectional=both, side=None)  # noqa: E731
    found = list(answers(track, seen, flags.query_mode))
    scores = score_all(found, flags.query_mode)
    static = score_all(map(as_standing_still, found), flags.query_mode)
    _print_points(scores, static)
    record = {"dataset": flags.dataset, "query_mode": flags.query_mode, "checkpoint": flags.checkpoint, **scores.mean}
    record |= {"pooled": scores.pooled, "static": static.mean, "videos": scores.videos}
    if flags.run.is_dir():
        with replacing(flags.run / f"eval-{flags.dataset}-{flags.query_mode}.json") as new:
            new.write_text(json.dumps(record) + "\n")
    short = {name: round(value, 4) for name, value in scores.mean.items()}
    print(json.dumps({"dataset": flags.dataset, **short, "static": round(static.mean["average_jaccard"], 4)}))
    return 0


def _print_points(scores: Any, static: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("video", *COLUMNS, title="percent, at 256 x 256 px", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    cells = lambda metrics: [f"{100 * metrics[name]:.1f}" for name in COLUMNS.values()]  # noqa: E731
    for name, metrics in scores.videos.items():
        table.add_row(name, *cells(metrics))
    table.add_section()
    table.add_row("mean over videos", *cells(scores.mean))
    table.add_row("static baseline", *cells(static.mean))
    pooled = {**scores.pooled, "jaccard_after_return": float("nan")}
    table.add_row("all points together", *cells(pooled)[:3], "")
    Console().print(table)
