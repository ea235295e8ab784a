"""Tracks drawn onto frames: a disc where a point is seen, a ring where it is hidden, a tail of where it was."""

import numpy as np
import pytest
from PIL import Image

from cssm.viz.tracks import TrackPainter, paint_belief, sheet, start_colours, tracks_sheet

WHITE = np.ones((1, 3))


def painted(*steps, tail=4):
    painter = TrackPainter(WHITE, (40, 60), tail=tail, radius=3.0)
    blank = np.zeros((40, 60, 3), np.uint8)
    return [painter.paint(blank, np.array([place], float), np.array([seen])) for place, seen in steps]


def test_a_disc_is_full_a_ring_is_empty():
    disc, ring = painted(((20, 10), True), ((20, 10), False))
    assert disc[10, 20].tolist() == [255, 255, 255] and disc[10, 30].max() == 0
    assert ring[10, 20].max() < 90 and ring[10, 17].max() > 150, "centre and rim"


def test_a_tail_follows_where_the_point_was_seen_and_ends():
    steps = [((10 + 10 * t, 20), True) for t in range(5)]
    frames = painted(*steps, tail=2)
    row = frames[-1][20, :, 0]
    assert row[35] > 60 and row[45] > row[35] and row[15] == 0, "fainter the older, two frames long"
    hidden = painted(((10, 20), True), ((30, 20), False), ((50, 20), True))
    assert hidden[-1][20, 20].max() == 0 and hidden[-1][20, 40].max() == 0, "none where it was not seen"
    assert painted(((10, 20), True), ((30, 20), True), tail=0)[-1][20, 20].max() == 0


def test_places_outside_or_not_finite_are_left_out():
    for place in ((-500, 5), (np.nan, 5), (1e9, 1e9)):
        assert painted((place, True))[0].max() == 0


def test_points_that_have_not_begun_are_not_drawn():
    painter = TrackPainter(np.ones((2, 3)), (40, 60))
    places, blank = np.array([[10.0, 10.0], [30.0, 10.0]]), np.zeros((40, 60, 3), np.uint8)
    frame = painter.paint(blank, places, np.ones(2, bool), np.array([True, False]))
    assert frame[10, 10].max() == 255 and frame[10, 30].max() == 0


def test_a_belief_is_brightest_where_it_is_largest():
    heat = np.full((1, 5, 8), -20.0)
    heat[0, 1, 6] = 5
    frame = paint_belief(np.full((40, 64, 3), 100, np.uint8), heat, np.array([[1.0, 0, 0]]))
    y, x = np.unravel_index(frame[..., 0].argmax(), frame.shape[:2])
    assert abs(y - 12) <= 4 and abs(x - 52) <= 4 and frame[35, 5].tolist() == [60, 60, 60]
    none = paint_belief(np.full((40, 64, 3), 100, np.uint8), heat[:0], np.zeros((0, 3)))
    assert (none == 60).all()


def test_sheets_and_colours(tmp_path):
    frames = [np.zeros((40, 60, 3), np.uint8)] * 5
    assert Image.open(sheet(frames, tmp_path / "new" / "a.png", [f"frame {t}" for t in range(5)])).size[0] > 240
    colours = start_colours(np.array([[0.0, 0.0], [60.0, 40.0], [30.0, 20.0]]), (40, 60))
    assert colours.shape == (3, 3) and (colours >= 0).all() and (colours <= 1).all()
    assert np.abs(colours[0] - colours[1]).max() > 0.3


def test_true_tracks_of_a_data_set(tmp_path):
    pytest.importorskip("skimage")
    from cssm.data.tracks import Tracks

    source = Tracks(frames=4, size=32, points=3).source("train", size=3)
    assert Image.open(tracks_sheet(source, tmp_path / "a.png", 2, "tracks")).size == (128, 2 * 36 + 22)
