"""What the pictures of tasks have in common: stimuli one a row, and beside each what the model says of it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cssm.data import Source
from cssm.shared.palette import GREEN, QUIET, RED

FRAMES = 5  # frames of a video that are shown, beside the maximum over time
SAMPLES = 8
VIDEOS = 4  # with tracks
BARS = 5  # of the likeliest classes


def draw_classes(figure: Any, predict: Callable[[Any], Any], source: Source, names: Sequence[str]) -> None:
    """The first samples of a source, one a row: frames, maximum over time, and class probabilities as bars.

    Args:
      figure: an empty matplotlib figure. predict: a raw batch -> probabilities (b, p). names: of the p classes.
    """
    batch = source.batch(np.arange(min(SAMPLES, len(source))))
    answers = draw_stimuli(figure, batch["input"], "model (bold: truth)")
    for axes, label, chances in zip(answers, batch["label"], np.asarray(predict(batch)), strict=True):
        _bars(axes, chances, int(label), names)


def draw_stimuli(figure: Any, inputs: Any, title: str) -> list[Any]:
    """Draw inputs (b, [t,] h, w, c), one a row; returns the empty axes at the end of each row, under `title`."""
    panels = [_panels(x) for x in inputs]
    columns = len(panels[0]) + 1
    figure.set_size_inches(1.25 * columns + 1.2, 1.25 * len(panels) + 0.4)
    grid = figure.subplots(len(panels), columns, squeeze=False)
    for row, images in zip(grid, panels, strict=True):
        for axes, (caption, image) in zip(row[:-1], images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if axes in grid[0]:
                axes.set_title(caption, fontsize=8)
    grid[0, -1].set_title(title, fontsize=8)
    return list(grid[:, -1])


def _panels(x):
    """[(title, image)] of a video or a still image."""
    if x.ndim == 3:
        return [("image", _show(x))]
    chosen = np.unique(np.linspace(0, len(x) - 1, FRAMES).round().astype(int))
    return [(f"frame {t}", _show(x[t])) for t in chosen] + [("max over time", _show(x.max(0)))]


def _show(image):
    image = np.asarray(image)
    if image.shape[-1] == 1:
        image = image.repeat(3, -1)
    if image.dtype == np.uint8:
        return image
    low, high = image.min(), image.max()
    return (image - low) / max(high - low, 1e-6)


def _bars(axes, chances, label: int, names):
    """The likeliest classes, and the true one."""
    likeliest = np.argsort(-chances, kind="stable")[:BARS]
    shown = np.sort(likeliest if label in likeliest else np.append(likeliest[:-1], label))
    guess = int(np.argmax(chances))
    colors = [(GREEN if guess == label else RED) if i == guess else QUIET for i in shown]
    axes.barh(range(len(shown)), chances[shown], color=colors, height=0.6)
    axes.set(xlim=(0, 1), xticks=[], yticks=range(len(shown)), yticklabels=[names[i] for i in shown])
    for i, tick in zip(shown, axes.get_yticklabels(), strict=True):
        tick.set(fontsize=8, fontweight="bold" if i == label else "normal")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.invert_yaxis()


def class_table(names: Sequence[str], confusion: np.ndarray) -> str:
    """Of each class: its samples, recall, precision, and what it was taken for most often.

    >>> print(class_table(["ant", "bee"], np.array([[3, 1], [0, 4]])))
    class  samples  recall  precision  taken for
    ant          4   0.750      1.000  bee (1)
    bee          4   1.000      0.800
    """
    rows = [("class", "samples", "recall", "precision", "taken for")]
    for i, name in enumerate(names):
        of_class, answered = int(confusion[i].sum()), int(confusion[:, i].sum())
        wrong = confusion[i] * (np.arange(len(names)) != i)
        taken = f"{names[int(wrong.argmax())]} ({int(wrong.max())})" if wrong.any() else ""
        recall, precision = (_share(int(confusion[i, i]), total) for total in (of_class, answered))
        rows.append((str(name), str(of_class), recall, precision, taken))
    width = [max(len(row[k]) for row in rows) for k in range(5)]
    lines = [
        "  ".join(cell.ljust(width[k]) if k in (0, 4) else cell.rjust(width[k]) for k, cell in enumerate(row))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def draw_confusion(figure: Any, confusion: np.ndarray, names: Sequence[str]) -> None:
    """Truth down, answer across; each row as shares of its class, the counts written in where there is room."""
    classes = len(names)
    side = min(2.2 + 0.45 * classes, 14)
    figure.set_size_inches(side + 0.6, side)
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="answer", ylabel="truth", title="confusion: shares of each class")
    axes.set_xticks(range(classes), names, rotation=90 if classes > 4 else 0, fontsize=8 if classes <= 30 else 5)
    axes.set_yticks(range(classes), names, fontsize=8 if classes <= 30 else 5)
    figure.colorbar(image, ax=axes, shrink=0.8)
    for i, j in np.argwhere(confusion > 0) if classes <= 20 else ():
        color = "white" if shares[i, j] > 0.5 else "black"
        axes.text(j, i, str(confusion[i, j]), ha="center", va="center", fontsize=7, color=color)


def _share(part: int, total: int) -> str:
    return f"{part / total:.3f}" if total else "-"


def draw_tracks(figure: Any, predict: Callable[[Any], Any], source: Source) -> None:
    """The first videos of a source, one a row: frames with what is said of the points, and the truth.

    A disc is a point said to be seen, a ring one said to be hidden, coloured by where it was first; a white diamond is
    where it is, where it is seen.

    Args:
      figure: an empty matplotlib figure. predict: a raw batch -> `Found`, whose tracks are (b, n, t, 2).
    """
    batch = source.batch(np.arange(min(VIDEOS, len(source))))
    found = predict(batch)
    tracks, visible = np.asarray(found.tracks), np.asarray(found.visible)
    videos, queries = batch["input"], batch["query_points"]
    height, width = videos.shape[2:4]
    chosen = np.unique(np.linspace(0, videos.shape[1] - 1, FRAMES).round().astype(int))
    figure.set_size_inches(2.2 * len(chosen), 2.2 * len(videos) * height / width + 0.3)
    grid = figure.subplots(len(videos), len(chosen), squeeze=False)
    for row, video, clip in zip(grid, videos, range(len(videos)), strict=True):
        colours = place_colours(queries[clip, :, :0:-1] / (width, height))
        for axes, t in zip(row, chosen, strict=True):
            axes.imshow(_show(video[t]))
            axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), title=f"frame {t}")
            known = queries[clip, :, 0] <= t
            truth = known & ~batch["occluded"][clip, :, t]
            axes.scatter(*(batch["tracks"][clip, truth, t].T - 0.5), s=14, marker="D", c="none", edgecolors="w", lw=0.7)
            for seen in (True, False):
                some = known & (visible[clip, :, t] == seen)
                face = colours[some] if seen else "none"
                axes.scatter(*(tracks[clip, some, t].T - 0.5), s=12, c=face, edgecolors=colours[some], lw=0.9)


def place_colours(places: np.ndarray) -> np.ndarray:
    """(n, 3) colours 0..1 by places (n, 2) 0..1: the hue goes round the middle."""
    from matplotlib.colors import hsv_to_rgb

    x, y = np.asarray(places, float).T - 0.5
    hue = (np.arctan2(y, x) / (2 * np.pi)) % 1.0
    strength = np.clip(0.55 + np.hypot(x, y), 0, 1)
    return hsv_to_rgb(np.stack([hue, strength, np.ones_like(hue)], -1))
