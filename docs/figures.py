"""Draw the pictures of the documents: `make docs`. The demo's picture is drawn from the newest run of `make demo`."""

import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cssm.data import FeatureTracker, Pathfinder, PathTracker, Photos, Subset
from cssm.data.augment import Photo
from cssm.data.formats.video import writing_video
from cssm.data.tracks import frozen
from cssm.models import list_models
from cssm.models.track_video import stream_points
from cssm.nn import list_mixers
from cssm.ops import goom
from cssm.recipes import draw_predictions, load_run
from cssm.shared.palette import BLUE, RED
from cssm.tasks.tapvid import returned, sample_queries_first
from cssm.viz.augment_sheet import augment_sheet
from cssm.viz.contact_sheet import contact_sheet
from cssm.viz.figure import figure, plain
from cssm.viz.impulse import draw_impulse
from cssm.viz.mixers import markdown_table, mixer_facts, store_facts
from cssm.viz.models import markdown_models, model_facts, store_models
from cssm.viz.tracks import TrackPainter, paint_belief, sheet, start_colours
from cssm.weights import find_tracker

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SHEETS = {
    "pathfinder": ("Pathfinder, contour length 14", Pathfinder(difficulty=14)),
    "pathtracker": ("PathTracker, 14 distractors, matched foils", PathTracker()),
    "featuretracker": ("FeatureTracker, 10 distractors", FeatureTracker()),
}
AUGMENTATIONS = {
    "three": Photo(crop_scale=0.3, policy="three", erasing=0.25, mixup=0.8, cutmix=1.0),
    "rand": Photo(crop_scale=0.3, policy="rand-m9-mstd0.5-inc1"),
}


def draw_goom(path: Path, factors: int = 400) -> Path:
    """Running products of small and of large factors: float32 ends, GOOM goes on."""
    small = jax.random.uniform(jax.random.key(0), (factors,), minval=0.3, maxval=0.9)
    with figure(path, figsize=(7, 3.4)) as fig:
        axes = fig.subplots()
        for x in (small, 1 / small):
            nothing = goom.to_goom(jnp.zeros_like(x))
            running = goom.scan(goom.to_goom(x), nothing, goom.to_goom(jnp.ones(())), axis=0)
            direct = np.asarray(jnp.cumprod(x))
            held = direct[np.isfinite(direct) & (direct > 0)]
            axes.plot(running.real / np.log(10), color=BLUE, linewidth=1.5)
            axes.plot(np.log10(held), color=RED, linewidth=4, alpha=0.6)
            axes.plot(len(held) - 1, np.log10(held[-1]), "x", color=RED, markersize=9)
        axes.annotate("GOOM", (factors * 0.7, 45), color=BLUE)
        axes.annotate("float32: inf", (len(held) + 8, 25), color=RED)
        axes.annotate("float32: 0", (len(held) + 8, -35), color=RED)
        plain(axes, xlabel="factors", ylabel="log10 of their product")
    return path


def draw_mixers() -> None:
    """The impulse response of every registered mixer, in few colours: the pictures stay small."""
    for name in list_mixers():
        path = draw_impulse(name, IMAGES / "mixers" / f"{name}.png")
        Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
        print(path)


def write_table(readme: Path = ROOT / "README.md") -> Path:
    """The table of `cssm list mixers` between its two marks in the README."""
    begin, end = "<!-- mixers: written by `make docs` -->\n", "<!-- end of mixers -->"
    text = readme.read_text()
    before, after = text.split(begin)[0], text.split(end)[1]
    rows = [mixer_facts(name) for name in list_mixers()]
    store_facts(rows)
    readme.write_text(before + begin + markdown_table(rows) + end + after)
    return readme


def write_models(page: Path = ROOT / "docs" / "models.md") -> Path:
    """The table of `cssm list models` between its two marks in docs/models.md."""
    begin, end = "<!-- models: written by `make docs` -->\n", "<!-- end of models -->"
    text = page.read_text()
    rows = [model_facts(name) for name in list_models()]
    store_models(rows)
    page.write_text(text.split(begin)[0] + begin + markdown_models(rows) + end + text.split(end)[1])
    return page


def draw_tracking(model: str = "tracker_small", video: int = 7) -> None:
    """A frozen video with what the shipped weights say of its points, and the beliefs of two that are hidden."""
    tracker = find_tracker(model)
    clip = next(itertools.islice(frozen("synthetic-v1-hard"), video, None))
    size, points = clip.video.shape[1:3], 256 * clip.points
    sample = sample_queries_first(clip.occluded, points, clip.video)
    queries = sample["query_points"][0].astype(np.float32)
    colours = start_colours(queries[:, :0:-1], size)
    seen = list(stream_points(tracker, iter(clip.video), size, queries, heat=True))
    painter = TrackPainter(colours, size, tail=8)
    with writing_video(IMAGES / "tracking.gif", 8.0) as add:
        for t, (frame, found) in enumerate(zip(clip.video, seen, strict=True)):
            add(painter.paint(frame, found.tracks, found.visible, queries[:, 0] <= t))
    print(IMAGES / "tracking.gif")
    gone = returned(sample["query_points"], sample["occluded"])[0].any(-1) & (queries[:, 0] == 0)
    two = np.flatnonzero(gone)[:2]
    shown = np.unique(np.linspace(0, len(clip.video) - 1, 8).round().astype(int))
    painter, frames = TrackPainter(colours[two], size, tail=0), []
    for t in shown:
        below = paint_belief(clip.video[t], seen[t].heat[two], colours[two])
        frames.append(painter.paint(below, seen[t].tracks[two], seen[t].visible[two]))
    print(sheet(frames, IMAGES / "belief.png", [f"frame {t}" for t in shown]))
    Image.open(IMAGES / "belief.png").quantize(200).save(IMAGES / "belief.png", optimize=True)


def draw_augment() -> None:
    """The sheets of docs/augmentation.md, as `cssm data preview photos --size 80 --augment photo ...` draws others."""
    photos = Photos(size=80)
    for name, photo in AUGMENTATIONS.items():
        few, path = Subset(photos.source(), (1, 2, 6, 8)), IMAGES / f"augment_{name}.png"
        fitted = photo.fitted(photos, photos.num_classes, "imagenet")
        augment_sheet(few, fitted, path, title=f"photos, {name}", names=photos.class_names)
        Image.open(path).quantize(200).save(path, optimize=True)
        print(path)


def main(only: tuple[str, ...] = ()) -> None:
    """Everything, or `python docs/figures.py mixers`, `tracking` or `augment`: those pictures (and table) alone."""
    if only == ("augment",):
        draw_augment()
        return
    if only == ("tracking",):
        draw_tracking()
        return
    draw_mixers()
    print(write_table())
    print(write_models())
    if only == ("mixers",):
        return
    draw_tracking()
    draw_augment()
    print(draw_goom(IMAGES / "goom.png"))
    for name, (title, data) in SHEETS.items():
        source = data.source("train", size=256)
        print(contact_sheet(source, IMAGES / f"{name}.png", title=title, samples=2, frames=6))
    runs = sorted(p.parent for p in (ROOT / "runs").glob("demo-*/summary.json"))
    if not runs:
        print("no finished run of `make demo` in runs/: docs/images/demo.png is left as it is")
        return
    run, model = load_run(runs[-1])
    draw_predictions(run, model, Subset(run.source("test"), range(4)), IMAGES / "demo.png")
    print(IMAGES / "demo.png")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]))
