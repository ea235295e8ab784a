"""A PNG preview of a data set: samples of every class with readable labels."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cssm.core.errors import UsageError
from cssm.core.files import replacing
from cssm.data.source import Source, labels_of

PAPER, INK, FAINT = (250, 250, 248), (28, 30, 34), (110, 114, 122)
GAP, MARGIN, CAPTION, TITLE = 6, 20, 26, 44  # px
SEARCHED, CLASSES = 512, 10


def contact_sheet(
    source: Source,
    path: Path,
    *,
    title: str = "",
    samples: int = 4,
    frames: int = 8,
    tile: int = 112,
    names: Sequence[str] | None = None,
) -> Path:
    """Draw samples of every class of `source` to the PNG `path`.

    Images: one row per class. Videos: one row per sample, with frames spread evenly over time and a last panel, the
    maximum over all frames. Small images are enlarged by whole factors, pixel by pixel.

    Args:
        source: samples of one shape; the first 512 are searched for the classes, ten of which at most are drawn.
        path: the file to write; its folder is made.
        title: a line on top.
        samples: samples of each class, at most 512.
        frames: frames shown of a video.
        tile: the least side of a panel, px.
        names: what the labels 0, 1, ... stand for; by default "label 0", "label 1", ...

    Returns `path`. Raises UsageError when the source is empty, its samples are no images or videos, or a count is
    below 1.

    >>> import tempfile
    >>> from cssm.data import PathTracker
    >>> path = Path(tempfile.mkdtemp()) / "sheet.png"
    >>> contact_sheet(PathTracker(frames=8).source("val", size=20), path, title="PathTracker").exists()
    True
    """
    if not len(source) or min(samples, frames, tile) < 1:
        raise UsageError("a contact sheet needs a source that is not empty, and samples, frames and tile of at least 1")
    if samples > SEARCHED:
        raise UsageError(f"a contact sheet of {samples} samples of each class: {SEARCHED} are searched, ask for fewer")
    chosen = _choose(source, samples)
    if np.ndim(chosen[0][1][0]) not in (3, 4):
        raise UsageError(f"input of shape {np.shape(chosen[0][1][0])}: expected (h, w, 3) or (t, h, w, 3)")
    named = [(f"label {label}" if names is None else names[label], images) for label, images in chosen]
    rows, captions = _rows(named, frames)
    image = _paint(rows, captions, title, tile)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        image.save(new, format="PNG")
    return path


def _choose(source: Source, samples: int) -> list[tuple[int, list[np.ndarray]]]:
    """(label, its first inputs) of each class, positive first when there are two."""
    labels = labels_of(source, np.arange(min(SEARCHED, len(source))))
    found = sorted(set(labels[labels >= 0].tolist()))[:CLASSES]
    chosen = []
    for label in reversed(found) if len(found) == 2 else found:
        batch = source.batch(np.flatnonzero(labels == label)[:samples])
        readable = np.broadcast_to(batch.get("valid", True), len(batch["label"]))
        chosen.append((label, list(batch["input"][readable])))
    chosen = [(label, images) for label, images in chosen if images]
    if not chosen:
        raise UsageError(f"none of the first {len(labels)} samples can be read: there is nothing to draw")
    return chosen


def _rows(
    named: list[tuple[str, list[np.ndarray]]], frames: int
) -> tuple[list[tuple[str, list[np.ndarray]]], list[str]]:
    """(class, panels) of each row, and the captions above the columns."""
    if named[0][1][0].ndim == 3:
        return named, []
    total = len(named[0][1][0])
    at = np.round(np.linspace(0, total - 1, min(frames, total))).astype(int)
    rows = [(name, [*video[at], video.max(0)]) for name, videos in named for video in videos]
    return rows, [*(f"frame {i}" for i in at), "max over time"]


def _paint(rows: list[tuple[str, list[np.ndarray]]], captions: list[str], title: str, tile: int) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    height, width = rows[0][1][0].shape[:2]
    zoom = max(1, -(-tile // max(height, width)))
    step_y, step_x = height * zoom + GAP, width * zoom + GAP
    columns = max(len(panels) for _, panels in rows)
    breaks = sum(a[0] != b[0] for a, b in itertools.pairwise(rows))
    top = MARGIN + (TITLE if title else 0) + (CAPTION if captions else 0)
    large, small = ImageFont.load_default(22), ImageFont.load_default(15)
    gutter = round(max(small.getlength(label) for label, _ in rows)) + 2 * GAP
    size = (
        2 * MARGIN + gutter + columns * step_x - GAP + (GAP if captions else 0),
        top + len(rows) * step_y - GAP + (3 * GAP * breaks if captions else 0) + MARGIN,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN - 4), title, INK, large)
    lefts = [MARGIN + gutter + j * step_x + (GAP if captions and j == columns - 1 else 0) for j in range(columns)]
    for left, caption in zip(lefts, captions, strict=False):
        draw.text((left + width * zoom / 2, top - 8), caption, FAINT, small, anchor="ms")
    y = top
    for i, (label, panels) in enumerate(rows):
        if i and captions and label != rows[i - 1][0]:
            y += 3 * GAP
        draw.text((MARGIN, y + height * zoom / 2), label, INK, small, anchor="lm")
        for left, panel in zip(lefts, panels, strict=False):
            large_panel = np.asarray(panel).repeat(zoom, 0).repeat(zoom, 1)
            sheet.paste(Image.fromarray(large_panel), (left, y))
        y += step_y
    return sheet
