"""Composed videos: what they promise of their tracks."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from data_helpers import assert_same_batch

from cssm.core.errors import UsageError
from cssm.data.textures import PHOTOGRAPHS, textures
from cssm.data.tracks import FROZEN, Tracks, frozen
from cssm.data.tracks_check import check_tracks, comes_back

EASY = [[41.845, 56.378], [68.179, 138.206], [125.303, 56.453]], 146  # places in the last frame, frames hidden
HARD = [[29.977, 156.209], [209.61, 72.942], [170.261, 56.304]], 175
pytestmark = pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="scikit-image is not installed")


def test_a_sample_depends_on_seed_split_and_index_alone():
    data = Tracks(frames=6, size=48, points=5)
    source = data.source("val", size=20, seed=3)
    batch = source.batch([7, 2, 7])
    assert_same_batch({k: v[0] for k, v in batch.items()}, source[7])
    assert_same_batch({k: v[2] for k, v in batch.items()}, data.source("val", size=8, seed=3)[7])
    others = [data.source(split, size=8, seed=seed)[7]["input"] for split in ("train", "val") for seed in (3, 4)]
    assert len({video.tobytes() for video in others}) == 4


def test_queries_lie_on_their_tracks_where_they_are_seen():
    for start in ("first", "any"):
        batch = Tracks(frames=12, size=64, points=16, start=start).source("train", size=8).batch(range(8))
        first = np.argmin(batch["occluded"], -1)
        for clip in range(8):
            for n, (t, y, x) in enumerate(batch["query_points"][clip]):
                assert not batch["occluded"][clip, n, int(t)]
                np.testing.assert_allclose(batch["tracks"][clip, n, int(t)], (x, y), atol=1e-5)
        times = batch["query_points"][..., 0]
        assert (times == first).all() if start == "first" else (times > first).mean() > 0.2
    held_out = Tracks(frames=12, size=64, points=16, start="any").source("val", size=4).batch(range(4))
    assert (held_out["query_points"][..., 0] == np.argmin(held_out["occluded"], -1)).all()


@pytest.mark.parametrize("level", ["easy", "hard", "mixed"])
def test_a_fifth_of_the_points_are_hidden_and_come_back(level):
    occluded = Tracks(level=level, size=96).source("train", size=40, seed=5).batch(range(40))["occluded"]
    assert comes_back(occluded).mean() >= 0.2 and 0.6 < (~occluded).mean() < 0.95


def test_the_colour_at_a_point_is_that_of_its_texel():
    facts = check_tracks(Tracks(frames=12, size=96), samples=6, seed=2)
    assert facts.compared > 500 and facts.colour < 0.6 and facts.place < 1e-9


def test_a_wrong_track_is_found_out():
    source = Tracks(frames=6, size=64, points=8, level="clean").source("train", size=1)
    from cssm.data import tracks_check

    scene = source.scene(0)
    assert tracks_check._compare(scene)[1] < 0.6
    moved = scene._replace(places=scene.places + np.array([0, 0, 1.0, 0]))  # a px to the right of where it was drawn
    assert tracks_check._compare(moved)[1] > 5


def test_points_outside_the_frame_or_under_a_layer_are_occluded():
    batch = Tracks(frames=24, size=64).source("train", size=8).batch(range(8))
    x, y = np.moveaxis(batch["tracks"], -1, 0)
    outside = (x < 0) | (y < 0) | (x >= 64) | (y >= 64)
    assert batch["occluded"][outside].all() and outside.any()
    assert (batch["occluded"] & ~outside).any(), "some are under a layer"


def test_textures_of_the_splits_come_from_other_images():
    names = [name for split in PHOTOGRAPHS.values() for name in split]
    assert len(set(names)) == len(names)
    tiles = {split: {block.tobytes() for block in np.array_split(textures(split).pixels, 400)} for split in PHOTOGRAPHS}
    assert not tiles["train"] & tiles["val"] and not tiles["train"] & tiles["test"] and not tiles["val"] & tiles["test"]


def test_frozen_sets_do_not_change():
    """Where points are: bits of other machines may differ, a hundredth of a pixel must not."""
    expected = {"synthetic-v1-easy": EASY, "synthetic-v1-hard": HARD}
    for name, (places, hidden) in expected.items():
        video = next(frozen(name))
        assert video.video.shape == (24, 256, 256, 3) and video.points.shape == (32, 24, 2)
        np.testing.assert_allclose(256 * video.points[[0, 13, 31], -1], places, atol=0.01)
        assert int(video.occluded.sum()) == hidden
    assert dataclasses.asdict(FROZEN["synthetic-v1-hard"])["level"] == "hard"


def test_options_out_of_range_are_one_clear_error(unchecked):
    for options in ({"frames": 1}, {"size": 16}, {"points": 0}, {"level": "harder"}, {"start": "last"}):
        with pytest.raises(UsageError, match=next(iter(options))):
            Tracks(**options)
