import colorsys
import itertools

import numpy as np
import pytest
from data_helpers import assert_same_batch, marker_table, validate

from cssm.core.errors import UsageError
from cssm.data import FeatureTracker
from cssm.data.featuretracker_kernel import hue_channel


def test_shapes_and_batching():
    source = FeatureTracker(frames=8, distractors=3).source("val", size=20, seed=2)
    batch = source.batch(np.arange(10))
    assert batch["input"].shape == (10, 8, 32, 32, 3) and batch["input"].dtype == np.uint8
    assert_same_batch({k: v[4] for k, v in batch.items()}, source[4])


def test_hues_are_those_of_colorsys():
    for hue in range(0, 360, 7):
        expected = np.round(255 * np.array(colorsys.hsv_to_rgb(hue / 360, 1, 1)))
        got = [hue_channel(hue, shift) for shift in (120.0, 0.0, 240.0)]
        assert np.abs(np.array(got, float) - expected).max() <= 1


@pytest.mark.parametrize(("half", "low", "high"), [("first", 0, 180), ("second", 180, 360)])
def test_dots_keep_to_their_half_of_the_hues_and_step_through_it(half, low, high):
    """No distractors; rings are pure red and blue, dots hardly ever."""
    batch = FeatureTracker(frames=32, distractors=0, hues=half).source(size=20).batch(np.arange(20))
    for video, markers in zip(batch["input"], batch["markers"].astype(int), strict=True):
        start = video[:, markers[0, 0], markers[0, 1]]  # the centre of the red ring: the target's first pixel
        first = colorsys.rgb_to_hsv(*start[0] / 255)
        assert first[1] == 1 and low - 1 <= first[0] * 360 <= high + 1
        hues = []
        for frame in video:
            pixels = frame.reshape(-1, 3)[frame.reshape(-1, 3).any(-1)]
            dots = [p for p in pixels if tuple(p) not in {(255, 0, 0), (0, 0, 255)}]
            hues += [{round(colorsys.rgb_to_hsv(*p / 255)[0] * 360, 1) for p in dots}]
        assert all(low - 1 <= hue <= high + 1 for frame in hues for hue in frame)
        steps = [(b - a) % 180 for x, y in itertools.pairwise(hues) for a in x for b in y]
        assert np.mean([abs(step - 5.625) < 0.6 for step in steps]) > 0.4  # each dot to itself; the rest is chance


def test_foil_is_nearest_in_the_end():
    """Ends of the marked dot: foils of `nearest` lie nearer to where targets end than those of `random`."""
    near = FeatureTracker(frames=8, foil="nearest").source(size=800)
    far = FeatureTracker(frames=8, foil="random").source(size=800)
    means = [d[label == 0].mean() for label, d in (marker_table(near, 800), marker_table(far, 800))]
    assert means[0] + 4 < means[1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"hues": "third"}, "third"),
        ({"foil": "x"}, "foil"),
        ({"frames": 100, "skip": 4}, "400"),
        ({"frames": 4, "foil": "matched"}, "8 path points"),
    ],
)
def test_bad_options_are_usage_errors(options, named):
    with pytest.raises(UsageError, match=named):
        validate(FeatureTracker, **options)
