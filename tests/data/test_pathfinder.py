import numpy as np
import pytest
from data_helpers import assert_same_batch, marker_table, validate
from PIL import Image

from cssm.core.errors import UsageError
from cssm.data import pathfinder_contours as contours
from cssm.data import raster, rng
from cssm.data.baselines import markers_only
from cssm.data.pathfinder import PRESETS, Pathfinder

# px at a window of 300, from the published generator without distractors: mean, sd, number of images
PUBLISHED = {
    (9, 1): (84.4, 8.2, 149),
    (9, 0): (90.3, 19.7, 149),
    (14, 1): (122.5, 15.3, 46),
    (14, 0): (131.2, 23.1, 46),
}


@pytest.mark.parametrize("difficulty", [9, 14])
def test_marker_distances_match_the_published_ones(difficulty):
    """Means within two standard errors of the difference; both sides have one."""
    label, distance = marker_table(Pathfinder(difficulty=difficulty).source(size=4000), 4000)
    distance = distance * 300 / 128
    for value in (1, 0):
        mean, spread, n = PUBLISHED[difficulty, value]
        ours = distance[label == value]
        error = np.sqrt(spread**2 / n + ours.var() / ours.size)
        assert abs(ours.mean() - mean) < 2 * error, (value, ours.mean(), ours.std())


@pytest.mark.parametrize("difficulty", [6, 9, 14])
def test_matched_negatives_leave_no_distance_cue(difficulty):
    n = 1500
    got = markers_only(Pathfinder(difficulty=difficulty, negatives="matched").source(size=n), n)
    assert abs(got.value - 0.5) < 3 * got.standard_error


@pytest.mark.slow
@pytest.mark.parametrize("difficulty", [6, 9, 14, 20, 25])
def test_matched_negatives_score_half_within_three_percent(difficulty):
    n = 6000
    got = markers_only(Pathfinder(difficulty=difficulty, negatives="matched").source(size=n), n)
    assert abs(got.value - 0.5) < 0.03


def test_published_negatives_do_leak_distance():
    """The known shortcut is really there, so the tests above can fail."""
    assert markers_only(Pathfinder(difficulty=9).source(size=1500), 1500).value > 0.6


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("negatives", ["published", "matched"])
def test_shapes_and_batching(preset, negatives):
    config = Pathfinder(difficulty=6, preset=preset, negatives=negatives)
    source = config.source("test", size=30, seed=1)
    size = {"published": 128, "lra32": 32, "lra64": 64, "lra128": 128}[preset]
    batch = source.batch(np.arange(12))
    assert batch["input"].shape == (12, size, size, 3) and batch["input"].dtype == np.uint8
    assert config.sample_spec["input"].shape == batch["input"].shape[1:]
    assert (batch["input"] == batch["input"][..., :1]).all()
    assert (batch["markers"] > 0).all() and (batch["markers"] < size).all()
    assert_same_batch({k: v[5] for k, v in batch.items()}, source[5])
    assert len({image.tobytes() for image in batch["input"]}) == 12


@pytest.mark.parametrize("difficulty", [20, 25])
def test_long_contours(difficulty):
    batch = Pathfinder(difficulty=difficulty).source(size=20).batch(np.arange(20))
    lit = (batch["input"][..., 0] > 40).sum((1, 2))
    assert lit.min() > 2 * difficulty * 4  # about 4 px of a paddle stay lit at 128 px


def test_markers_are_the_two_discs():
    """At the window's own size a disc is the only 7 x 7 block that is all white."""
    batch = Pathfinder(difficulty=9, size=300).source(size=20).batch(np.arange(20))
    for image, markers in zip(batch["input"][..., 0], batch["markers"], strict=True):
        blocks = np.lib.stride_tricks.sliding_window_view(image == 255, (7, 7)).all((2, 3))
        centres = np.argwhere(blocks) + 3.5
        nearest = np.linalg.norm(centres[:, None] - markers[None], axis=-1)
        assert (nearest.min(0) < 1.5).all()  # each marker has a disc
        assert (nearest.min(1) < 3).all()  # and there is no other


def test_positive_markers_join_one_contour():
    """Published: marker distance of a positive never exceeds the straight contour, 9 x 5 + 8 x 6 px at 300."""
    label, distance = marker_table(Pathfinder(difficulty=9).source(size=1000), 1000)
    assert distance[label == 1].max() * 300 / 128 < 93 + 10
    assert distance[label == 0].max() * 300 / 128 > 93 + 10


def test_target_contours_do_not_touch():
    """Paddles of different targets keep twice the margin (3 px at 300), less the rounding of pixels."""
    layout = PRESETS["published"]
    mask, pair = np.empty((300, 300), np.uint8), np.empty((2, 14, 4))
    angles = 2 * np.pi / 64 * np.arange(64)
    scratch = np.stack((np.sin(angles), np.cos(angles), angles, angles))
    for i in range(40):
        state = rng.stream(rng.stream_key(0, "train"), i)
        contours.grow_pair(state, mask, layout, 3, 4.0, pair, scratch)
        along = np.linspace(0, 1, 9)[:, None]
        first, second = ((c[:, None, :2] * (1 - along) + c[:, None, 2:] * along).reshape(-1, 2) for c in pair)
        assert np.linalg.norm(first[:, None] - second[None], axis=-1).min() > 6
        gaps = np.linalg.norm(pair[:, 1:, :2] - pair[:, :-1, 2:], axis=-1)
        assert gaps.min() > 5 and gaps.max() < 6.1  # between paddles of one contour: 6 px when collinear
        steps = pair[..., 2:] - pair[..., :2]
        headings = np.arctan2(steps[..., 0], steps[..., 1])
        turns = np.degrees(np.abs(np.angle(np.exp(1j * np.diff(headings)))))
        assert turns.max() < 50 + 5 * 4 + 8  # the limit, the noise, the pixel grid
        assert pair.min() > 22 and pair.max() < 300 - 22


def test_labels_are_balanced():
    label, _ = marker_table(Pathfinder(difficulty=6, preset="lra32").source(size=2000), 2000)
    assert abs(label.mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize(("source", "target"), [(300, 128), (300, 64), (32, 32), (32, 128), (300, 97)])
def test_resize_is_pillow_bilinear(source, target):
    canvas = np.random.default_rng(0).integers(0, 256, (source, source), np.uint8)
    image, rows = np.empty((target, target, 3), np.uint8), np.empty((target, source), np.float32)
    raster.resize_grey(canvas, *raster.bilinear_taps(source, target), rows, image)
    witness = np.asarray(Image.fromarray(canvas).resize((target, target), Image.Resampling.BILINEAR))
    assert np.abs(image[..., 0].astype(int) - witness).max() <= 1


def test_paddle_coverage_is_its_area():
    """Summed coverage equals length x thickness, exactly along the axes and within 3% at any angle."""
    for angle, tolerance in [(0, 1e-2), (np.pi / 2, 1e-2), (0.3, 0.03), (1.0, 0.03)]:
        canvas = np.zeros((40, 40), np.uint8)
        y, x = 20 + 9 * np.sin(angle), 20 + 9 * np.cos(angle)
        raster.draw_paddle(canvas, np.array([20.0, 20.0, y, x]), 2.0, 1.0)
        assert canvas.sum() / 255 == pytest.approx(18, rel=tolerance)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"difficulty": 10}, "with preset published difficulty 10"),
        ({"difficulty": 20, "preset": "lra32"}, "with preset lra32 difficulty 20"),
        ({"preset": "lra256"}, "lra256"),
        ({"negatives": "hard"}, "hard"),
        ({"size": 4}, "size 4"),
    ],
)
def test_bad_options_are_usage_errors(options, named):
    with pytest.raises(UsageError, match=named):
        validate(Pathfinder, **options)
