"""The point tracker: queries do not see each other, streams equal parallel passes, points come and go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cssm.core.errors import ShapeError, UsageError
from cssm.models.track_video import step, working_size
from cssm.models.tracker import TrackerConfig

SMALL = TrackerConfig(fine=8, coarse=16, blocks=(1, 1), groups=2, search=4, features=4, channels=3, layers=2, hidden=16)
T, H, W = 7, 40, 56


@pytest.fixture(scope="module")
def tracker():
    return SMALL.make(nnx.Rngs(0))


@pytest.fixture(scope="module")
def video():
    return np.random.RandomState(0).randint(0, 255, (T, H, W, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def queries():
    """(6, 3) (t, y, x), begun at three times."""
    rng = np.random.RandomState(1)
    return np.stack([np.array([0, 0, 2, 2, 5, 6]), rng.uniform(0, H, 6), rng.uniform(0, W, 6)], -1).astype(np.float32)


@pytest.fixture(scope="module")
def call(tracker):
    graph, parameters = nnx.split(tracker)
    compiled = jax.jit(lambda parameters, *arguments: nnx.merge(graph, parameters)(*arguments))
    return lambda *arguments: compiled(parameters, *arguments)


def test_queries_do_not_see_each_other(call, video, queries):
    whole = call(video[None], queries[None])
    order = np.random.RandomState(2).permutation(6)
    permuted = call(video[None], queries[None, order])
    for a, b in zip(whole, permuted, strict=True):
        np.testing.assert_allclose(np.asarray(a)[:, order], b, atol=1e-4)
    poisoned = queries.copy()
    poisoned[3, 1:] = np.nan
    other = call(video[None], poisoned[None])
    rest = [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(other.tracks[:, rest], whole.tracks[:, rest])


def test_clips_of_a_batch_do_not_see_each_other(call, video, queries):
    flipped = video[:, :, ::-1].copy()
    both = call(np.stack([video, flipped]), np.stack([queries, queries]))
    np.testing.assert_allclose(both.tracks[:1], call(video[None], queries[None]).tracks, atol=1e-4)


@pytest.mark.parametrize("memory", [True, False])
def test_a_stream_equals_the_parallel_pass(video, queries, memory):
    tracker = TrackerConfig(**{**vars(SMALL), "memory": memory}).make(nnx.Rngs(0))
    parallel = tracker.track(video, queries, side=None)
    stream = tracker.track(video, queries, side=None, mode="stream")
    np.testing.assert_allclose(stream.tracks, parallel.tracks, atol=1e-4)
    np.testing.assert_array_equal(stream.visible, parallel.visible)
    before = np.arange(T) < queries[:, :1]
    assert not parallel.visible[before].any(), "nothing is said of frames before the query's"
    still = np.broadcast_to(queries[:, None, :0:-1], parallel.tracks.shape)[before]
    np.testing.assert_allclose(parallel.tracks[before], still, atol=1e-4)


def test_no_later_frame_is_seen(call, video, queries):
    other = video.copy()
    other[4:] = 0
    whole, cut = call(video[None], queries[None]), call(other[None], queries[None])
    np.testing.assert_array_equal(whole.tracks[:, :4, :4], cut.tracks[:, :4, :4])
    assert (np.asarray(whole.tracks[:, :4, 4:]) != np.asarray(cut.tracks[:, :4, 4:])).any()


def test_points_come_and_go_and_leave_the_bits_of_the_others(tracker, video):
    graph, parameters = nnx.split(tracker)
    here = np.random.RandomState(3).uniform(4, 36, (8, 2)).astype(np.float32)

    def run(late, removed):
        state, out = tracker.init_state(1, (H, W), max_points=12), []
        state = tracker.add_points(state, video[None, 0], here[:3])
        for t, frame in enumerate(video):
            if t == 3 and late:
                state = tracker.add_points(state, frame[None], here)
            if t == 5 and removed:
                state = tracker.remove_points(state, [4, 5])
            state, found = step(graph, parameters, state, frame[None])
            out.append(found)
        return state, out

    alone, with_late, with_both = run(False, False), run(True, False), run(True, True)
    for t in range(T):
        for a, b in zip(alone[1][t], with_late[1][t], strict=True):
            np.testing.assert_array_equal(np.asarray(a)[:, :3], np.asarray(b)[:, :3])
        np.testing.assert_array_equal(with_late[1][t].tracks[:, 6:11], with_both[1][t].tracks[:, 6:11])
    assert np.asarray(with_both[0].active[0]).tolist() == [1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0]
    state = tracker.add_points(with_both[0], video[None, 0], here[:3])
    assert np.flatnonzero(np.asarray(state.fresh[0])).tolist() == [4, 5, 11], "the first free slots"
    belief = np.asarray(with_both[0].beliefs[0]).reshape(12, -1)
    assert not belief[[4, 5, 11]].any() and belief[3].any()


def test_a_late_point_equals_one_of_a_stream_that_began_there(tracker, video):
    """State is zero before a query's frame: what was before does not matter."""
    whole = tracker.track(video, np.array([[3.0, 11.0, 17.0]]), side=None)
    part = tracker.track(video[3:], np.array([[0.0, 11.0, 17.0]]), side=None)
    np.testing.assert_allclose(whole.tracks[:, 3:], part.tracks, atol=1e-4)


def test_both_ways_is_the_video_turned_round(tracker, video, queries):
    both = tracker.track(video, queries, side=None, bidirectional=True)
    turned = queries.copy()
    turned[:, 0] = T - 1 - turned[:, 0]
    back = tracker.track(video[::-1], turned, side=None)
    before = np.arange(T) < queries[:, :1]
    np.testing.assert_allclose(both.tracks[before], back.tracks[:, ::-1][before], atol=1e-4)
    np.testing.assert_allclose(
        both.tracks[~before], tracker.track(video, queries, side=None).tracks[~before], atol=1e-4
    )


def test_any_size_of_frames_and_coordinates_of_the_given_video(tracker):
    rng = np.random.RandomState(4)
    for shape in ((2, 33, 17), (3, 19, 64)):
        video = rng.randint(0, 255, (*shape, 3)).astype(np.uint8)
        found = tracker.track(video, np.array([[0, 5, 7.5]]), side=None)
        assert found.tracks.shape == (1, shape[0], 2) and np.isfinite(found.tracks).all()
    assert working_size((720, 1280), 256) == (256, 456) and working_size((40, 40), 256) == (256, 256)
    small = tracker.track(video, np.array([[0, 9.5, 32.0]]), side=32)
    assert np.abs(small.tracks[0, 0] - (32, 9.5)).max() < 64, "px of the given video"


def test_gradients_reach_every_parameter_and_are_finite(tracker, video, queries):
    graph, parameters = nnx.split(tracker)

    def loss(parameters):
        found = nnx.merge(graph, parameters)(jnp.asarray(video[None]), jnp.asarray(queries[None]))
        return sum(jnp.square(x).mean() for x in (found.tracks, found.occluded, found.unsure, found.earlier))

    for path, slope in nnx.to_flat_state(jax.jit(jax.grad(loss))(parameters)):
        values = np.asarray(slope[...])
        assert np.isfinite(values).all(), path
        assert values.any() or path[-1] == "bias", path


def test_bad_input_is_one_clear_error(tracker, video):
    def track(*query, video=video, **options):
        return lambda: tracker.track(video, np.array([query] if query else np.zeros((0, 3)), np.float32), **options)

    def add(*places, height=H, **options):
        return lambda: tracker.add_points(state, frame[:, :height], np.array(places).reshape(-1, 2), **options)

    state, frame = tracker.init_state(1, (H, W), max_points=2), video[None, 0]
    cases = [
        (UsageError, r"query \(t, y, x\) = \(9.0, 1.0, 1.0\) is outside the video: 7 frames", track(9, 1, 1)),
        (UsageError, "is outside the video: 7 frames, 56 px wide and 40 high", track(0, 41, 1)),
        (UsageError, "outside the video", track(0, np.nan, 1)),
        (ShapeError, r"at least one, got shape \(0, 3\)", track()),
        (ShapeError, r"takes a video \(T, H, W, 3\), got shape \(0, 40, 56, 3\)", track(0, 1, 1, video=video[:0])),
        (UsageError, "one frame: there is nothing to follow", track(0, 1, 1, video=video[:1])),
        (UsageError, "unknown mode 'live'", track(0, 1, 1, mode="live")),
        (UsageError, "a stream does not go back", track(0, 1, 1, mode="stream", bidirectional=True)),
        (UsageError, "side is 3 px", track(0, 1, 1, side=3)),
        (UsageError, "max_points is 0", lambda: tracker.init_state(1, (H, W), max_points=0)),
        (ShapeError, "batch is -1", lambda: tracker.init_state(-1, (H, W))),
        (UsageError, "3 more points, but 2 of 2 slots are free", add((1, 1), (2, 2), (3, 3))),
        (UsageError, r"point \(x, y\) = \(57.0, 5.0\) is outside the frame of 56 x 40", add((57, 5))),
        (ShapeError, "at least one", add()),
        (ShapeError, "begin another stream", add((5, 5), height=32)),
        (UsageError, r"slots \[2\]", add((5, 5), slots=[2])),
        (ShapeError, r"a frame of shape \(1, 32, 56, 3\) in a stream", lambda: tracker.step(state, frame[:, :32])),
        (UsageError, r"slots \[7\]: expected numbers of 0..1", lambda: tracker.remove_points(state, 7)),
    ]
    for kind, message, act in cases:
        with pytest.raises(kind, match=message):
            act()


def test_sizes_out_of_range_are_refused():
    for options in ({"fine": 12}, {"groups": 3}, {"layers": 0}, {"kernel_size": 0}, {"blocks": (-1, 1)}):
        with pytest.raises(UsageError, match=next(iter(options))):
            TrackerConfig(**options)
