"""A PNG of what an augmentation makes of a data set: each sample as it is, then draws of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cssm.core.errors import UsageError
from cssm.core.files import replacing
from cssm.data.augment import Augment
from cssm.data.normalise import shown
from cssm.data.source import Batch, Source, labels_of

from .contact_sheet import CAPTION, FAINT, GAP, INK, MARGIN, PAPER, SEARCHED, TITLE

MOST = 64  # samples and draws


def augment_sheet(
    source: Source,
    augment: Augment,
    path: Path,
    *,
    title: str = "",
    samples: int = 4,
    draws: int = 6,
    tile: int = 128,
    names: Sequence[str] | None = None,
    normalization: str = "imagenet",
    seed: int = 0,
) -> Path:
    """Draw samples of `source`, of its classes in turn, one a row, as they are and as augmented, to the PNG `path`.

    The samples of the sheet are one batch, so that they are mixed with each other; of a clip the middle frame is shown.
    Above each draw stands the share of a row's own label where labels are mixed. Of a draw that is several views, each.

    Args:
        augment: fitted to the data.
        samples, draws: at most 64.
        tile: height and width of a panel, px.
        names: what the labels stand for.
        normalization: how the augmentation was told to normalise.
        seed: of the draws.

    Returns `path`. Raises UsageError for a count out of range and a source without samples that can be read.

    >>> import tempfile
    >>> from cssm.data import PathTracker
    >>> from cssm.data.augment import FlipShift
    >>> path = Path(tempfile.mkdtemp()) / "sheet.png"
    >>> augment_sheet(PathTracker(frames=8).source("val", size=9), FlipShift(shift=4), path, draws=2).exists()
    True
    """
    for name, count in (("samples", samples), ("draws", draws)):
        if not 1 <= count <= MOST:
            raise UsageError(f"{name} is {count}: give 1 to {MOST}")
    batch = _batch(source, samples)
    changed = jax.jit(augment)
    outs = [jax.tree.map(np.asarray, changed(jax.random.key(seed + i), batch)) for i in range(draws)]
    columns, captions = [_stills(batch["input"])], ["as it is"]
    for i, out in enumerate(outs):
        if out["input"].ndim > batch["input"].ndim:  # several views of an image
            views = [out[key][:, v] for key in ("input", "local") if key in out for v in range(out[key].shape[1])]
            columns += [_stills(shown(view, normalization)) for view in views]
            captions += [f"draw {i + 1}, {v + 1}" for v in range(len(views))]
        else:
            columns.append(_stills(shown(out["input"], normalization)))
            captions.append(f"draw {i + 1}{_share(batch, out)}")
    words = _words(batch, names)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        _paint(columns, words, captions, title, tile).save(new, format="PNG")
    return path


def _batch(source: Source, samples: int) -> Batch:
    """So many readable samples, one of each class in turn; without labels the first ones."""
    if "label" not in source.batch([0] if len(source) else []):
        return source.batch(np.arange(min(samples, len(source))))
    labels = labels_of(source, np.arange(min(SEARCHED, len(source))))
    classes = [np.flatnonzero(labels == label) for label in sorted(set(labels[labels >= 0].tolist()))]
    turns = sorted((turn, at) for places in classes for turn, at in enumerate(places.tolist()))
    batch = source.batch([at for _, at in turns[:samples]])
    readable = np.broadcast_to(batch.get("valid", True), len(batch["input"]))
    if not readable.any():
        raise UsageError(f"none of the first {len(labels)} samples can be read: there is nothing to draw")
    return {key: value[readable] for key, value in batch.items()}


def _words(batch: Batch, names: Sequence[str] | None) -> list[str]:
    """What stands before each row: its class, or its number where there are no labels."""
    if "label" not in batch:
        return [f"sample {i}" for i in range(len(batch["input"]))]
    return [f"label {label}" if names is None else str(names[label]) for label in batch["label"]]


def _stills(x: np.ndarray) -> np.ndarray:
    """(b, [t,] h, w, c) -> (b, h, w, 3), the middle frame of clips."""
    x = x[:, x.shape[1] // 2] if x.ndim == 5 else x
    return np.broadcast_to(x, (*x.shape[:-1], 3))


def _share(batch: Batch, out: Batch) -> str:
    """The share of its own label that a row keeps, where labels are shares."""
    if "label" not in batch or out["label"].ndim == batch["label"].ndim:
        return ""
    return f": {out['label'][np.arange(len(out['label'])), batch['label']].min():.2f}"


def _paint(columns: list[np.ndarray], words: list[str], captions: list[str], title: str, tile: int) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    large, small = ImageFont.load_default(22), ImageFont.load_default(15)
    gutter = round(max(small.getlength(word) for word in words)) + 2 * GAP
    top, left, step = MARGIN + (TITLE if title else 0) + CAPTION, MARGIN + gutter, tile + GAP
    lefts = [left + j * step + (2 * GAP if j else 0) for j in range(len(columns))]
    sheet = Image.new("RGB", (lefts[-1] + tile + MARGIN, top + len(words) * step - GAP + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 4), title, INK, large)
    for x, caption, panels in zip(lefts, captions, columns, strict=True):
        pen.text((x + tile / 2, top - 8), caption, FAINT, small, anchor="ms")
        finer = max(panels.shape[1:3]) > tile
        way = Image.Resampling.LANCZOS if finer else Image.Resampling.NEAREST
        for row, panel in enumerate(panels):
            h, w = (max(1, round(tile * side / max(panel.shape[:2]))) for side in panel.shape[:2])
            sheet.paste(Image.fromarray(panel).resize((w, h), way), (x, top + row * step))
    for row, word in enumerate(words):
        pen.text((MARGIN, top + row * step + tile / 2), word, INK, small, anchor="lm")
    return sheet
