"""Tracks drawn onto videos: a disc where a point is seen, a ring where it is hidden, a tail of where it was."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cssm.core.files import replacing
from cssm.data import Source
from cssm.tasks.picture import place_colours

TAIL = 16  # frames
FINER = 2  # the drawing is made twice as large and then made smaller: smooth edges
COLUMNS = 4  # of a sheet of frames
BELIEF = 0.75  # the share of a belief in the picture where it is largest


class TrackPainter:
    """Draws points onto the frames of one video, one after the other, in colours that stay.

    Args:
      colours: (n, 3) 0..1, as of `place_colours`. size: (height, width) px of the frames. tail: frames that a tail is
        long, 0 for none. radius: px; None: by the size of the frames.

    >>> painter = TrackPainter(np.ones((1, 3)), (32, 48))
    >>> painter.paint(np.zeros((32, 48, 3), np.uint8), np.array([[20.0, 10.0]]), np.array([True]))[10, 20].tolist()
    [255, 255, 255]
    """

    def __init__(
        self, colours: np.ndarray, size: tuple[int, int], tail: int = TAIL, radius: float | None = None
    ):  # fmt: skip
        self.colours = [tuple(round(255 * float(v)) for v in colour) for colour in colours]
        self.size, self.radius = size, radius or max(2.0, min(size) / 110)
        self.past: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=tail + 1)

    def paint(
        self, frame: np.ndarray, places: np.ndarray, visible: np.ndarray, known: np.ndarray | None = None
    ) -> np.ndarray:
        """The frame (h, w, 3) with points at places (n, 2) px on it; known (n,): those that have begun, or all."""
        from PIL import Image, ImageDraw

        known = np.ones(len(places), bool) if known is None else known
        self.past.append((places, visible & known))
        height, width = self.size
        layer = Image.new("RGBA", (FINER * width, FINER * height))
        pen = ImageDraw.Draw(layer)
        thick = max(1, round(FINER * self.radius / 2.5))
        for n in np.flatnonzero(known):
            self._tail(pen, int(n), thick)
        for n in np.flatnonzero(known):
            x, y, r = *(FINER * places[n]), FINER * self.radius
            if not (np.isfinite([x, y]).all() and -r <= x <= FINER * width + r and -r <= y <= FINER * height + r):
                continue
            box, colour = (x - r, y - r, x + r, y + r), self.colours[n]
            if visible[n]:
                pen.ellipse(box, fill=(*colour, 255), outline=(0, 0, 0, 200), width=1)
            else:
                pen.ellipse(box, outline=(*colour, 230), width=thick)
        small = layer.resize((width, height), Image.Resampling.BOX)
        return np.asarray(Image.alpha_composite(Image.fromarray(frame).convert("RGBA"), small).convert("RGB"))

    def _tail(self, pen: Any, n: int, thick: int) -> None:
        """Segments between frames in which the point was seen, fainter the older they are."""
        steps = len(self.past) - 1
        for age, (old, new) in enumerate(zip(list(self.past)[:-1], list(self.past)[1:], strict=True)):
            ends = np.concatenate([old[0][n], new[0][n]])
            if old[1][n] and new[1][n] and np.isfinite(ends).all():
                strength = int(40 + 180 * (age + 1) / max(steps, 1))
                pen.line(tuple((FINER * ends).tolist()), fill=(*self.colours[n], strength), width=thick)


def paint_belief(frame: np.ndarray, heat: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The frame (h, w, 3) under the beliefs of n points: softmax of heat (n, k, l), each in its colour.

    Each belief is scaled by its largest value, so that one that is spread out is as bright as one that is sure.
    """
    from PIL import Image

    chances = np.exp(heat - heat.max((1, 2), keepdims=True))
    height, width = frame.shape[:2]
    colour, strength = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for chance, each in zip(chances, np.asarray(colours), strict=True):
        grown = Image.fromarray(chance.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        share = np.clip(np.asarray(grown), 0, 1)[..., None]
        colour, strength = colour + share * each, strength + share
    mixed = np.where(strength > 0, colour / np.maximum(strength, 1e-6), 0)
    part = BELIEF * np.clip(strength, 0, 1)
    return np.rint((1 - part) * (0.6 * frame) + part * 255 * mixed).clip(0, 255).astype(np.uint8)


def sheet(frames: Sequence[np.ndarray], path: Path, names: Sequence[str]) -> Path:
    """Frames side by side in rows as a PNG, each under its name."""
    from PIL import Image, ImageDraw

    from .contact_sheet import INK, PAPER

    height, width = frames[0].shape[:2]
    scale = min(1.0, 480 / width)
    height, width, gap, caption = round(scale * height), round(scale * width), 6, 18
    columns = min(COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    image = Image.new("RGB", (gap + columns * (width + gap), gap + rows * (height + caption + gap)), PAPER)
    pen = ImageDraw.Draw(image)
    for i, (frame, name) in enumerate(zip(frames, names, strict=True)):
        x, y = gap + i % columns * (width + gap), gap + i // columns * (height + caption + gap)
        pen.text((x, y + 2), name, fill=INK)
        image.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS), (x, y + caption))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        image.save(new, "PNG")
    return path


def start_colours(places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(n, 3) colours 0..1 of points by where they start, (n, 2) (x, y) px in frames of (height, width)."""
    return place_colours(np.asarray(places, float).reshape(-1, 2) / (size[1], size[0]))


def tracks_sheet(source: Source, path: Path, samples: int, title: str, frames: int = 6) -> Path:
    """The first videos of a source with their true tracks, one a row, as a PNG."""
    from PIL import Image, ImageDraw

    from .contact_sheet import INK, PAPER

    rows = []
    for index in range(min(samples, len(source))):
        sample = source[index]
        video, tracks, occluded = sample["input"], sample["tracks"], sample["occluded"]
        size, start = video.shape[1:3], sample["query_points"][:, 0]
        painter = TrackPainter(start_colours(sample["query_points"][:, :0:-1], size), size)
        painted = [
            painter.paint(frame, tracks[:, t], ~occluded[:, t], start <= t) for t, frame in enumerate(video)
        ]  # fmt: skip
        shown = np.unique(np.linspace(0, len(video) - 1, frames).round().astype(int))
        row = np.concatenate([painted[t] for t in shown], 1)
        rows.append(np.pad(row, [(0, 4), (0, 0), (0, 0)], constant_values=255))
    sheet = Image.fromarray(np.concatenate(rows))
    image = Image.new("RGB", (sheet.width, sheet.height + 22), PAPER)
    ImageDraw.Draw(image).text((6, 5), f"{title} (disc: seen, ring: hidden)", fill=INK)
    image.paste(sheet, (0, 22))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        image.save(new, "PNG")
    return path
