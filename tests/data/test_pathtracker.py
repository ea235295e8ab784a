import numpy as np
import pytest
from data_helpers import assert_same_batch, marker_table, validate

from cssm.core.errors import UsageError
from cssm.data.pathtracker import FOILS, STYLES, PathTracker

GREEN, RED, BLUE = (0, 255, 0), (255, 0, 0), (0, 0, 255)


def mask(video, colour):
    return (video == np.array(colour, np.uint8)).all(-1)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("foil", FOILS)
def test_shapes_colours_and_batching(style, foil):
    source = PathTracker(frames=6, distractors=3, style=style, foil=foil, skip=2).source("val", size=50, seed=3)
    batch = source.batch(np.arange(16))
    assert batch["input"].shape == (16, 6, 32, 32, 3) and batch["input"].dtype == np.uint8
    assert batch["label"].shape == (16,) and batch["label"].dtype == np.int32
    assert batch["markers"].shape == (16, 2, 2) and batch["markers"].dtype == np.float32
    colours = np.unique(batch["input"].reshape(-1, 3), axis=0)
    assert {tuple(c) for c in colours.tolist()} == {(0, 0, 0), GREEN, RED, BLUE}
    assert_same_batch({k: v[7] for k, v in batch.items()}, source[7])
    assert_same_batch(source.batch([9, 2]), {k: v[[9, 2]] for k, v in batch.items()})


def test_streams_differ_by_split_seed_and_index():
    def first(split, seed):
        return PathTracker(frames=4).source(split, size=2, seed=seed).batch([0, 1])["input"]

    videos = np.concatenate([first(split, seed) for split in ("train", "val", "test") for seed in (0, 1)])
    assert len({v.tobytes() for v in videos}) == len(videos)


def test_rings_mark_the_ends_and_dots_move():
    """restyled: a dot sits in the red ring on the first frame, and in the blue ring on the last one."""
    batch = PathTracker(frames=32, distractors=0).source("train", size=200).batch(np.arange(200))
    for video, (start, end) in zip(batch["input"], batch["markers"].astype(int), strict=True):
        blue = np.argwhere(mask(video[0], BLUE))
        assert abs(blue.mean(0) - end).max() < 1e-6 and len(blue) == 8
        if max(abs(start - end)) > 2:  # rings apart
            assert mask(video[0], RED).sum() == 8 and mask(video[0], GREEN)[tuple(start)]
            assert mask(video[-1], GREEN)[tuple(end)]
        counts = mask(video, GREEN).sum((1, 2))
        assert counts.max() <= 2 and counts.min() >= 0
        assert mask(video, GREEN).any(0).sum() > 10  # the two paths over time


def test_dot_sizes_of_the_styles():
    """Green pixels a frame of 40 dots: 1 px each when restyled, up to 4 px when equal."""
    means = {}
    for style in STYLES:
        video = PathTracker(frames=8, distractors=38, style=style).source(size=50).batch(np.arange(50))["input"]
        means[style] = mask(video, GREEN).sum((2, 3)).mean()
    assert 33 < means["restyled"] <= 40
    assert 110 < means["equal"] <= 160
    assert means["restyled"] + 3 < means["published"] < 48


def test_frame_points():
    assert PathTracker(frames=32, style="equal", skip=3).frame_points().tolist() == list(range(0, 96, 3))
    restyled = PathTracker(frames=32).frame_points()
    assert restyled[0] == 0 and restyled[-1] == 63 and set(np.diff(restyled)) == {2, 3}


def test_labels_are_balanced():
    labels, _ = marker_table(PathTracker(frames=4, foil="random").source(size=2000), 2000)
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize(
    "options",
    [{}, {"distractors": 0}, {"frames": 8, "style": "equal"}, {"frames": 8, "skip": 4, "distractors": 1}],
    ids=str,
)
def test_matched_foil_equalises_marker_distance(options):
    """Two-sample Kolmogorov-Smirnov: the distances of the classes are one distribution (alpha = .001)."""
    n = 800 if options.get("style") else 3000  # a window of 8 points takes long to match
    labels, distance = marker_table(PathTracker(foil="matched", **options).source(size=n), n)
    a, b = np.sort(distance[labels == 1]), np.sort(distance[labels == 0])
    grid = np.concatenate([a, b])
    gap = np.abs(np.searchsorted(a, grid, "right") / a.size - np.searchsorted(b, grid, "right") / b.size).max()
    assert gap < 1.95 * np.sqrt(1 / a.size + 1 / b.size)


def test_random_foil_leaks_distance():
    """The known shortcut is really there, so the test above can fail."""
    labels, distance = marker_table(PathTracker(style="equal", foil="random").source(size=2000), 2000)
    assert distance[labels == 0].mean() - distance[labels == 1].mean() > 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"style": "plain"}, "plain"),
        ({"foil": "far"}, "far"),
        ({"frames": 1}, "frames"),
        ({"distractors": -1}, "distractors"),
        ({"skip": 0}, "skip"),
        ({"frames": 64, "skip": 4}, "512 path points"),
        ({"frames": 4, "style": "equal"}, "window of 8"),
    ],
)
def test_bad_options_are_usage_errors(options, named):
    with pytest.raises(UsageError, match=named):
        validate(PathTracker, **options)


def test_index_out_of_range():
    source = PathTracker(frames=4).source(size=5)
    for bad in (5, -1):
        with pytest.raises(IndexError, match=r"outside 0..4"):
            source[bad]
    with pytest.raises(UsageError, match="split"):
        PathTracker().source("valid", size=5)
