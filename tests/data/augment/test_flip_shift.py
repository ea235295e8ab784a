import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_helpers import validate

from cssm.core.errors import UsageError
from cssm.data import Digits, PathTracker
from cssm.data.augment import FlipShift


def batch_of(rows=400, frames=3):
    """Clips with one lit pixel, and markers at its centre and at another place."""
    rng = np.random.default_rng(0)
    at = rng.integers(2, 8, (rows, 2))
    video = np.zeros((rows, frames, 10, 12, 1), np.uint8)
    video[np.arange(rows), :, at[:, 0], at[:, 1]] = 200
    markers = np.stack([at + 0.5, rng.uniform(0, 10, (rows, 2))], 1).astype(np.float32)
    return {"input": video, "label": np.arange(rows, dtype=np.int32), "markers": markers}


def moves(before, after):
    """(dx, dy, flipped) of each row, from the two markers."""
    flipped = np.sign(np.diff(after["markers"][..., 1], axis=1)) != np.sign(np.diff(before["markers"][..., 1], axis=1))
    x = np.where(flipped, 12 - before["markers"][..., 1], before["markers"][..., 1])
    move = np.stack([after["markers"][..., 0] - before["markers"][..., 0], after["markers"][..., 1] - x], -1)
    np.testing.assert_allclose(move[:, 0], move[:, 1], atol=1e-5)
    return np.round(move[:, 0]).astype(int), flipped[:, 0]


@pytest.mark.parametrize("augment", [FlipShift(), FlipShift(flip=0.3, shift=2), FlipShift(flip=0.0, shift=1)], ids=str)
def test_markers_follow_the_pixel_and_every_frame_alike(augment):
    before = batch_of()
    after = jax.tree.map(np.asarray, jax.jit(augment)(jax.random.key(3), before))
    assert after["input"].dtype == np.uint8 and after["input"].shape == before["input"].shape
    assert after["label"].tolist() == before["label"].tolist()
    assert (after["input"] == after["input"][:, :1]).all()
    for clip, (y, x) in zip(after["input"], after["markers"][:, 0], strict=True):
        assert np.argwhere(clip[0, ..., 0]).tolist() == [[int(y), int(x)]]
    move, flipped = moves(before, after)
    assert np.abs(move).max() == augment.shift
    assert len({tuple(m) for m in move}) == (2 * augment.shift + 1) ** 2  # rows have draws of their own
    assert flipped.any() == (augment.flip > 0) and not flipped.all()


@pytest.mark.parametrize("flip", [0.0, 0.2, 1.0])
def test_probability_of_a_flip(flip):
    image = np.zeros((4000, 1, 2, 1), np.uint8)
    image[:, 0, 0] = 9
    flipped = np.asarray(FlipShift(flip=flip)(jax.random.key(0), {"input": image})["input"])[:, 0, 1, 0] == 9
    assert abs(flipped.mean() - flip) <= 4 * np.sqrt(flip * (1 - flip) / 4000)


def test_padding():
    image = np.full((200, 6, 6, 3), 50, np.uint8)
    zero, edge = (
        np.asarray(FlipShift(shift=2, padding=kind)(jax.random.key(1), {"input": image})["input"])
        for kind in ("zero", "edge")
    )
    assert (edge == 50).all() and set(np.unique(zero)) == {0, 50}
    assert (zero[:, 2:-2, 2:-2] == 50).all()


def test_the_key_decides_and_nothing_else():
    source = PathTracker(frames=4).source(size=8)
    batch, augment = source.batch(np.arange(8)), FlipShift(shift=3)
    first, again, other = (augment(jax.random.key(k), batch)["input"] for k in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    same = FlipShift(flip=0.0)(jax.random.key(0), batch)
    assert (np.asarray(same["input"]) == batch["input"]).all()
    assert (np.asarray(same["markers"]) == batch["markers"]).all()


def test_stills_and_floats():
    pytest.importorskip("sklearn")
    image = Digits().source("val", size=30).batch(np.arange(30))["input"]
    key, augment = jax.random.key(0), FlipShift(shift=1)
    whole = augment(key, {"input": image})["input"]
    floats = augment(key, {"input": jnp.asarray(image, jnp.bfloat16)})["input"]
    assert floats.dtype == jnp.bfloat16 and (floats == whole.astype(jnp.bfloat16)).all()


@pytest.mark.parametrize(
    ("options", "named"), [({"flip": 1.5}, "flip"), ({"shift": -1}, "shift"), ({"padding": "x"}, "x")]
)
def test_bad_options_are_usage_errors(options, named):
    with pytest.raises(UsageError, match=named):
        validate(FlipShift, **options)


def test_tracked_points_follow_a_flip_and_are_not_moved():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 255, (6, 3, 10, 12, 3)).astype(np.uint8)
    tracks = np.stack([rng.integers(0, 12, (6, 4, 3)), rng.integers(0, 10, (6, 4, 3))], -1) + 0.5
    queries = np.stack([np.zeros((6, 4)), tracks[:, :, 0, 1], tracks[:, :, 0, 0]], -1)
    batch = {"input": video, "tracks": tracks.astype(np.float32), "query_points": queries.astype(np.float32)}
    after = jax.tree.map(np.asarray, FlipShift()(jax.random.key(1), batch))
    turned = (after["tracks"] != batch["tracks"]).any((1, 2, 3))
    assert turned.any() and not turned.all()
    for b, n, t in np.ndindex(6, 4, 3):
        (x, y), (u, v) = batch["tracks"][b, n, t].astype(int), after["tracks"][b, n, t].astype(int)
        np.testing.assert_array_equal(after["input"][b, t, v, u], video[b, t, y, x])
    np.testing.assert_array_equal(after["query_points"][..., :0:-1], after["tracks"][:, :, 0])
    with pytest.raises(UsageError, match="may not leave the frame, use shift=0"):
        FlipShift(shift=1)(jax.random.key(1), batch)
