"""Photo as a whole: the same key, clips, what is mixed and what is not, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_helpers import picture, validate

from cssm.core.errors import ShapeError, UsageError
from cssm.data import PathTracker, Photos, Tracks
from cssm.data.augment import AUGMENTS, Augment, FlipShift, Photo, colour, mixing, rand_augment
from cssm.data.normalise import normalise

KEY = jax.random.key(0)
ALL = Photo(crop_scale=0.3, crop_size=16, policy="three", erasing=0.5, mixup=0.8, cutmix=1.0, classes=10)
RANDOM = Photo(policy="rand-m9-mstd0.5-inc1")


def batch_of(rows=8, frames=None, size=(20, 24)):
    """Smooth pictures, or clips that stand still, with labels 0, 1, ..."""
    images = np.stack([picture(seed, size) for seed in range(rows)])
    if frames:
        images = np.repeat(images[:, None], frames, 1)
    return {"input": images, "label": np.arange(rows, dtype=np.int32), "valid": np.ones(rows, bool)}


@jax.jit
def layer_of(x, layer):
    return rand_augment.applied(x, layer, True)


@jax.jit
def whole(key, batch):
    return ALL(key, batch)


def test_the_same_key_gives_the_same_batch_and_another_one_another():
    batch = batch_of()
    first, again, other = (jax.tree.map(np.asarray, whole(jax.random.key(k), batch)) for k in (3, 3, 4))
    assert first["input"].shape == (8, 16, 16, 3) and first["input"].dtype == np.float32
    assert np.isfinite(first["input"]).all() and first["label"].shape == (8, 10)
    np.testing.assert_allclose(first["label"].sum(-1), 1, atol=1e-6)
    for name in first:
        assert (first[name] == again[name]).all()
    assert (first["input"] != other["input"]).any((1, 2, 3)).all()


def test_nothing_but_a_flip_by_default():
    batch = batch_of()
    same = Photo(flip=0.0)(KEY, batch)
    assert same["input"].dtype == jnp.uint8 and (same["input"] == batch["input"]).all()
    assert same["label"] is batch["label"]
    turned = Photo(flip=1.0)(KEY, batch)["input"]
    assert (turned == batch["input"][:, :, ::-1]).all()
    some = np.asarray(Photo()(jax.random.key(2), batch)["input"])
    flipped = (some == batch["input"][:, :, ::-1]).all((1, 2, 3))
    assert 0 < flipped.sum() < 8 and (flipped | (some == batch["input"]).all((1, 2, 3))).all()


@pytest.mark.parametrize("photo", [ALL, pytest.param(RANDOM, marks=pytest.mark.slow)], ids=["three", "rand"])
def test_one_draw_for_a_clip(photo):
    """Frames that are equal stay equal, and a clip is treated as its still."""
    still, clip = (jax.jit(photo)(KEY, batch_of(frames=frames))["input"] for frames in (None, 3))
    assert clip.shape == (8, 3, *still.shape[1:])
    assert (clip == clip[:, :1]).all()
    like = np.isclose(clip[:, 0], still, atol=0.05).all((1, 2, 3))  # equalise counts pixels, of which there are more
    assert like.sum() >= (8 if photo is ALL else 7)


@pytest.mark.parametrize("name", ["autocontrast", "equalise", "contrast"])
def test_the_frames_of_a_clip_share_what_is_measured(name):
    """A dark frame beside a bright one: both go through one table."""
    clip = np.stack([picture(1, (30, 30)), picture(1, (30, 30)) // 4])[None]
    layer = rand_augment.Layer(jnp.array([rand_augment.PLACE[name]]), jnp.array([9.0]), jnp.array([False]))
    out = np.asarray(colour.interleaved(layer_of(colour.planes(jnp.asarray(clip)), layer), 5))
    assert (out != clip).any()
    for channel in range(3):
        pairs = {(int(u), int(v)) for u, v in zip(clip[..., channel].ravel(), out[..., channel].ravel(), strict=True)}
        assert len(pairs) == len({u for u, _ in pairs})


def test_every_row_has_draws_of_its_own():
    same = {"input": np.repeat(picture(1, (16, 16))[None], 12, 0)}
    for photo in (Photo(crop_scale=0.2), Photo(policy="three"), Photo(jitter=0.4), Photo(erasing=1.0)):
        out = np.asarray(jax.jit(photo)(KEY, same)["input"])
        assert len({row.tobytes() for row in out}) >= 10, photo
    out = np.asarray(jax.jit(RANDOM)(KEY, same)["input"])  # a quarter of the rows are left as they are, or flipped
    assert len({row.tobytes() for row in out}) >= 7


def test_the_three_and_their_blur_are_drawn_for_each_row():
    same = {"input": np.repeat(picture(1, (16, 16))[None], 30, 0)}
    out = np.asarray(jax.jit(Photo(flip=0.0, policy="three", jitter=0.0))(KEY, same)["input"])
    grey = (out == out[..., :1]).all((1, 2, 3))
    assert 2 < grey.sum() < 20 and len({row.tobytes() for row in out}) >= 6


@pytest.mark.parametrize("photo", [Photo(policy="three"), Photo(crop_scale=0.3), Photo(erasing=0.001)], ids=str)
def test_a_flip_turns_what_the_other_draws_make(photo):
    turned, plain = (
        np.asarray(jax.jit(dataclasses.replace(photo, flip=flip))(KEY, batch_of())["input"], float)
        for flip in (1.0, 0.0)
    )
    assert (turned != plain).any((1, 2, 3)).all()
    assert np.abs(turned - plain[:, :, ::-1]).max() <= 2 and np.abs(turned - plain[:, :, ::-1]).mean() < 0.01


def test_rows_that_are_not_valid_do_not_leak():
    batch = batch_of()
    batch["valid"][[1, 2]] = False
    batch["label"][[1, 2]] = [-1, 99]
    photo = dataclasses.replace(ALL, erasing=0.0)
    out = jax.tree.map(np.asarray, jax.jit(photo)(jax.random.key(1), batch))
    batch["input"][[1, 2]] = 255 - batch["input"][[1, 2]]
    batch["label"][[1, 2]] = [3, 4]
    changed = jax.tree.map(np.asarray, jax.jit(photo)(jax.random.key(1), batch))
    rows = [0, 3, 4, 5, 6, 7]
    assert (out["input"][rows] == changed["input"][rows]).all()
    assert (out["label"][rows] == changed["label"][rows]).all()
    hard = out["label"].max(-1) == 1  # the partners of 1 and 2 are 6 and 5
    assert hard[[5, 6]].all() and not hard[[0, 3, 4, 7]].any()
    assert np.isfinite(out["label"]).all()


def test_a_label_out_of_range_is_not_lost():
    batch = batch_of()
    batch["label"][2] = 10
    label = np.asarray(whole(KEY, batch)["label"])
    assert np.isnan(label[[2, 5]]).all() and np.isfinite(label[[0, 1, 3, 4, 6, 7]]).all()


def test_labels_that_are_shares_already():
    shares = jax.nn.softmax(jax.random.normal(KEY, (8, 10)))
    label = np.asarray(whole(KEY, batch_of() | {"label": shares})["label"])
    np.testing.assert_allclose(label.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_what_is_mixed_is_what_the_label_says(name):
    """Pictures of one colour each: the mean of a picture is the shares of its label."""
    levels = np.arange(6, dtype=np.uint8) * 40
    images = np.broadcast_to(levels[:, None, None, None], (6, 16, 16, 3))
    alphas = {"mixup": float(name == "mixup"), "cutmix": float(name == "cutmix")}
    photo = dataclasses.replace(Photo(classes=6, pixels="none"), **alphas)
    seen = []
    for seed in range(6):
        out = jax.jit(photo)(jax.random.key(seed), {"input": images, "label": np.arange(6)})
        np.testing.assert_allclose(out["input"].mean((1, 2, 3)), out["label"] @ levels, rtol=1e-3, atol=1e-3)
        assert ((np.asarray(out["label"]) > 0).sum(-1) <= 2).all()
        seen.append(len(np.unique(np.asarray(out["input"][0]))))
    assert (max(seen) == 2) if name == "cutmix" else (max(seen) == 1)


def test_erasing_is_of_normalised_pixels_and_shares_one_field_of_noise():
    batch = {"input": np.full((400, 24, 24, 3), 255, np.uint8)}
    out = np.asarray(jax.jit(Photo(erasing=1.0, pixels="unit"))(KEY, batch)["input"])
    noise = out != 1.0
    assert 0.15 < noise.mean() < 0.2
    values = np.unique(out[noise])
    assert len(values) <= 24 * 24 * 3 and abs(values.std() - 1) < 0.1
    assert (noise.any(-1) == noise.all(-1)).all()


def test_normalised_as_the_task_does_it():
    x = batch_of()["input"]
    photo = Photo(flip=0.0, mixup=1.0, mix=0.0, classes=8)
    out = jax.jit(photo)(KEY, {"input": x, "label": np.arange(8)})
    np.testing.assert_allclose(out["input"], normalise(x, "imagenet"), atol=1e-6)


@pytest.mark.parametrize("photo", [ALL, pytest.param(RANDOM, marks=pytest.mark.slow)], ids=["three", "rand"])
def test_clip_after_clip_is_the_batch_at_once(photo, monkeypatch):
    """As on a CPU, and as elsewhere: the same draws, the same pixels."""
    one_by_one = jax.jit(photo)(KEY, batch_of())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    at_once = jax.jit(lambda *args: photo(*args))(KEY, batch_of())
    np.testing.assert_allclose(one_by_one["input"], at_once["input"], atol=1.01 if photo is RANDOM else 0.02)
    assert (np.asarray(one_by_one["input"]) == np.asarray(at_once["input"])).mean() > 0.99
    np.testing.assert_array_equal(one_by_one["label"], at_once["label"])


def test_markers_and_tracks_follow_a_flip():
    rng = np.random.default_rng(0)
    batch = {
        "input": rng.integers(0, 255, (6, 3, 10, 12, 3)).astype(np.uint8),
        "tracks": (rng.integers(0, 10, (6, 4, 3, 2)) + 0.5).astype(np.float32),
        "query_points": (rng.integers(0, 10, (6, 4, 3)) + 0.5).astype(np.float32),
        "markers": (rng.integers(0, 10, (6, 2, 2)) + 0.5).astype(np.float32),
    }
    after = jax.tree.map(np.asarray, jax.jit(Photo(policy="three"))(KEY, batch))
    plain = jax.tree.map(np.asarray, jax.jit(Photo())(KEY, batch))
    for b, n, t in np.ndindex(6, 4, 3):
        (x, y), (u, v) = batch["tracks"][b, n, t].astype(int), plain["tracks"][b, n, t].astype(int)
        np.testing.assert_array_equal(plain["input"][b, t, v, u], batch["input"][b, t, y, x])
    for name in ("tracks", "query_points", "markers"):
        assert (after[name] == plain[name]).all()
    turned = (plain["markers"] != batch["markers"]).any((1, 2))
    assert (plain["markers"][turned][..., 1] == 12 - batch["markers"][turned][..., 1]).all() and turned.any()


@pytest.mark.parametrize("photo", [Photo(crop_scale=0.5), RANDOM, Photo(cutmix=1.0)], ids=["crop", "warp", "mix"])
@pytest.mark.parametrize("data", [PathTracker(frames=8), Tracks()], ids=["markers", "tracks"])
def test_points_that_would_be_left_behind_are_refused(photo, data):
    name = "markers" if "markers" in data.sample_spec else "tracks"
    with pytest.raises(UsageError, match=f"leave {name} without their pixels"):
        photo.fitted(data, 2, "imagenet")
    Photo(policy="three").fitted(data, 2, "imagenet")


def test_what_follows_from_a_run_is_filled_in():
    pytest.importorskip("sklearn")
    photo = Photo(mixup=0.8, policy="three").fitted(Photos(), 10, "unit")
    assert (photo.classes, photo.pixels, photo.mixup) == (10, "unit", 0.8)
    plain = FlipShift()
    assert plain.fitted(Photos(), 10, "unit") is plain
    assert isinstance(photo, Augment) and AUGMENTS["photo"] is Photo


@pytest.mark.parametrize(
    ("photo", "batch", "says"),
    [
        (Photo(jitter=0.1), {"input": np.zeros((2, 4, 4, 1), np.uint8)}, "need 3 channels, the pixels have 1"),
        (Photo(policy="three"), {"input": np.zeros((2, 4, 4, 3), np.float32)}, "pixels of 8 bits, got float32"),
        (Photo(mixup=1.0, classes=3), {"input": np.zeros((2, 4, 4, 3), np.uint8)}, "need labels"),
        (Photo(mixup=1.0), {"input": np.zeros((2, 4, 4, 3), np.uint8), "label": np.zeros(2, int)}, "classes is 0"),
    ],
)
def test_batches_that_do_not_fit(photo, batch, says):
    with pytest.raises(UsageError, match=says):
        photo(KEY, batch)
    assert issubclass(ShapeError, UsageError)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flip": 1.5}, "flip 1.5 is out of range"),
        ({"crop_scale": 0.0}, "crop_scale 0.0 is out of range"),
        ({"crop_size": 0, "crop_scale": 0.1}, "crop_size 0 is out of range"),
        ({"policy": "rand"}, "policy 'rand' is unknown"),
        ({"jitter": -0.1}, "jitter"),
        ({"erasing": 2.0}, "erasing"),
        ({"mixup": -1.0}, "mixup"),
        ({"pixels": "x"}, "x"),
        ({"crop_size": 32}, "crop_size 32 does nothing without crop_scale"),
        ({"mix": 0.5}, "mix 0.5 does nothing without mixup or cutmix"),
        ({"switch": 0.1, "mixup": 0.8}, "switch 0.1 does nothing without mixup and cutmix"),
    ],
)
def test_bad_options_are_usage_errors(options, says):
    with pytest.raises(UsageError, match=says):
        validate(Photo, **options)


def test_grey_pixels_may_be_cropped_and_mixed():
    batch = {"input": np.zeros((4, 9, 9, 1), np.uint8), "label": np.zeros(4, int)}
    photo = Photo(crop_scale=0.5, erasing=0.5, mixup=1.0, classes=2, pixels="unit")
    assert jax.jit(photo)(KEY, batch)["input"].shape == (4, 9, 9, 1)


def test_a_box_is_where_it_says():
    boxes = jnp.array([[1, 2, 3, 1], [0, 0, 0, 4]])
    assert np.argwhere(np.asarray(mixing.inside(boxes, (5, 5)))).tolist() == [[0, 1, 2], [0, 2, 2], [0, 3, 2]]
