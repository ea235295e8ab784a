import numpy as np
import pytest
from PIL import Image

from cssm.core.errors import UsageError
from cssm.data import Digits, Pathfinder, PathTracker
from cssm.viz.contact_sheet import contact_sheet


def find(sheet, panel):
    """Whether `panel` (h, w, 3) stands somewhere in `sheet`; looks where its first row is."""
    height, width = panel.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (1, width, 3))[:, :, 0, 0]
    for y, x in np.argwhere((windows == panel[0]).all((-1, -2))):
        if np.array_equal(sheet[y : y + height, x : x + width], panel):
            return True
    return False


def enlarged(image, zoom):
    return np.asarray(image).repeat(zoom, 0).repeat(zoom, 1)


def test_video_sheet_holds_frames_and_the_maximum(tmp_path):
    source = PathTracker(frames=8, distractors=3).source("val", size=40)
    path = contact_sheet(source, tmp_path / "new" / "sheet.png", title="A title", samples=2, frames=3, tile=60)
    sheet = np.asarray(Image.open(path).convert("RGB"))
    batch = source.batch(np.arange(40))
    for label in (0, 1):
        for video in batch["input"][batch["label"] == label][:2]:
            for panel in (video[0], video[4], video[7], video.max(0)):  # rounded linspace of 3 over 8
                assert find(sheet, enlarged(panel, 2))
    third = batch["input"][batch["label"] == 0][2]
    assert not find(sheet, enlarged(third.max(0), 2))


def test_image_sheet_has_a_row_per_class(tmp_path):
    pytest.importorskip("sklearn")
    source = Digits().source("val")
    sheet = np.asarray(Image.open(contact_sheet(source, tmp_path / "a.png", samples=3, tile=16)).convert("RGB"))
    batch = source.batch(np.arange(270))
    for label in range(10):
        assert find(sheet, enlarged(batch["input"][batch["label"] == label][2], 2))
    assert sheet.shape[0] >= 10 * 16


def test_title_and_names_change_the_sheet(tmp_path):
    source = Pathfinder(difficulty=6, preset="lra32").source(size=20)
    plain, named, titled = (
        np.asarray(Image.open(contact_sheet(source, tmp_path / f"{i}.png", **options)))
        for i, options in enumerate(({}, {"names": ("different contours", "same contour")}, {"title": "Pathfinder"}))
    )
    assert plain.shape[0] == named.shape[0] and plain.shape[1] < named.shape[1]  # room for the longer names
    assert titled.shape[0] > plain.shape[0]


def test_errors(tmp_path):
    with pytest.raises(UsageError, match="not empty"):
        contact_sheet(PathTracker(frames=8).source(size=0), tmp_path / "a.png")
    with pytest.raises(UsageError, match="at least 1"):
        contact_sheet(PathTracker(frames=8).source(size=5), tmp_path / "a.png", samples=0)
