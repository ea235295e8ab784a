"""The metrics of TAP-Vid: published check values, and a slow loop written from the definition."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cssm.core.errors import ShapeError, UsageError
from cssm.tasks.tapvid import (
    THRESHOLDS,
    compute_tapvid_metrics,
    evaluated,
    metrics_on,
    returned,
    sample_queries_first,
    sample_queries_strided,
)


def one(tracks, said, occluded=None, said_occluded=None, mode="first", queries=((0, 0, 0),)):
    """The metrics of one video of points (n, t, 2)."""
    tracks, said = np.asarray(tracks, float), np.asarray(said, float)
    none = np.zeros(tracks.shape[:-1], bool)
    occluded, said_occluded = (none if x is None else np.asarray(x, bool) for x in (occluded, said_occluded))
    found = compute_tapvid_metrics(
        np.array([queries], float), occluded[None], tracks[None], said_occluded[None], said[None], mode
    )
    assert all(value.shape == (1,) for value in found.values())
    return {name: value[0] for name, value in found.items()}


def test_published_values_of_constant_errors():
    tracks = np.random.RandomState(0).uniform(0, 256, (1, 6, 2))
    found = one(tracks, tracks + (1, 0))
    assert found["average_pts_within_thresh"] == pytest.approx(0.8) and found["average_jaccard"] == pytest.approx(0.8)
    assert found["pts_within_1"] == 0 and found["jaccard_2"] == 1, "strictly below"
    found = one(tracks, tracks + (3, 4))
    assert found["average_pts_within_thresh"] == pytest.approx(0.4) and found["average_jaccard"] == pytest.approx(0.4)


def test_published_values_of_growing_errors():
    tracks = np.zeros((1, 5, 2))
    said = tracks + np.stack([[0, 0.5, 1.5, 3, 6], np.zeros(5)], -1)
    found = one(tracks, said)
    assert found["average_pts_within_thresh"] == pytest.approx(0.7)
    assert found["average_jaccard"] == pytest.approx(0.6152380952, abs=1e-10)


def test_published_values_of_occlusion():
    tracks = np.random.RandomState(1).uniform(0, 256, (1, 6, 2))
    occluded, said = np.isin(np.arange(6), (3, 4))[None], np.isin(np.arange(6), (4, 5))[None]
    found = one(tracks, tracks, occluded, said, queries=((1, 0, 0),))
    assert found["occlusion_accuracy"] == 0.5 and found["average_pts_within_thresh"] == 1
    assert found["average_jaccard"] == pytest.approx(1 / 3)
    found = one(tracks, tracks, occluded, np.ones((1, 6), bool), queries=((1, 0, 0),))
    assert found["occlusion_accuracy"] == 0.5 and found["average_jaccard"] == 0


def test_nothing_to_evaluate_is_nan():
    tracks, hidden = np.zeros((1, 3, 2)), np.ones((1, 3), bool)
    assert all(np.isnan(v) for v in one(tracks, tracks, queries=((2, 0, 0),)).values()), "no frame after the query"
    found = one(tracks, tracks, hidden, hidden)
    assert np.isnan(found["average_jaccard"]) and np.isnan(found["pts_within_1"]) and found["occlusion_accuracy"] == 1


def test_strided_evaluates_both_sides_and_rounds_half_to_even():
    frames = evaluated(np.array([[[2.5, 0, 0], [1.5, 0, 0]]]), 5, "strided")
    np.testing.assert_array_equal(frames[0], [[1, 1, 0, 1, 1]] * 2)
    np.testing.assert_array_equal(evaluated(np.array([[[2.5, 0, 0]]]), 5, "first")[0], [[0, 0, 0, 1, 1]])


def slowly(queries, occluded, tracks, said_occluded, said, mode):
    """The metrics of one video, from the definition."""
    n, steps = occluded.shape
    out, within, jaccards = {}, [], []
    counts = [
        (i, t)
        for i in range(n)
        for t in range(steps)
        if (t > round(queries[i, 0]) if mode == "first" else t != round(queries[i, 0]))
    ]
    ratio = lambda a, b: a / b if b else float("nan")  # noqa: E731
    out["occlusion_accuracy"] = ratio(sum(occluded[c] == said_occluded[c] for c in counts), len(counts))
    for d in THRESHOLDS:
        near = {c: np.hypot(*(said[c] - tracks[c])) < d for c in counts}
        visible = [c for c in counts if not occluded[c]]
        true = sum(not occluded[c] and not said_occluded[c] and near[c] for c in counts)
        false = sum(not said_occluded[c] and (occluded[c] or not near[c]) for c in counts)
        within.append(ratio(sum(near[c] for c in visible), len(visible)))
        jaccards.append(ratio(true, len(visible) + false))
        out |= {f"pts_within_{d}": within[-1], f"jaccard_{d}": jaccards[-1]}
    return out | {"average_pts_within_thresh": np.mean(within), "average_jaccard": np.mean(jaccards)}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 7), st.sampled_from(["first", "strided"]))
def test_equals_a_slow_loop(seed, points, steps, mode):
    rng = np.random.RandomState(seed)
    tracks = rng.uniform(0, 256, (2, points, steps, 2))
    said = tracks + rng.choice([0, 0.9, 1, 3, 10, 100], (2, points, steps, 1)) * rng.normal(size=(2, points, steps, 2))
    occluded, said_occluded = rng.rand(2, 2, points, steps) < rng.rand()
    queries = np.stack([rng.randint(0, steps, (2, points)), *rng.rand(2, 2, points)], -1)
    found = compute_tapvid_metrics(queries, occluded, tracks, said_occluded, said, mode)
    for row in range(2):
        expected = slowly(queries[row], occluded[row], tracks[row], said_occluded[row], said[row], mode)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][row], value, rtol=1e-12)
    frames = evaluated(queries, steps, mode, jnp)
    again = metrics_on(frames, occluded, jnp.asarray(tracks), said_occluded, jnp.asarray(said), jnp)
    for name, value in found.items():
        np.testing.assert_allclose(again[name], value, rtol=1e-5, err_msg=name)


def test_what_comes_back_counts_by_the_length_of_the_gap():
    hidden = np.array([[[0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0]]], bool)
    query = np.zeros((1, 1, 3))
    frames = lambda *gap: np.flatnonzero(returned(query, hidden, *gap)[0, 0]).tolist()  # noqa: E731
    assert frames(3) == [7, 8] and frames(1) == [3, 7, 8, 10] and frames(2, 2) == [3] and frames(4) == []
    assert not returned(query + 5, hidden, 3).any(), "an occlusion begun before the query is shorter after it"
    np.testing.assert_array_equal(returned(jnp.asarray(query), jnp.asarray(hidden), xp=jnp), returned(query, hidden))


def test_sampled_queries():
    rng = np.random.RandomState(0)
    points, video = rng.rand(4, 12, 2), np.zeros((12, 2, 2, 3))
    occluded = rng.rand(4, 12) < 0.5
    occluded[2] = True
    first = sample_queries_first(occluded, points, video)
    assert first["video"].shape == (1, 12, 2, 2, 3) and first["query_points"].shape == (1, 3, 3)
    for (t, y, x), track, hidden in zip(
        first["query_points"][0], first["target_points"][0], first["occluded"][0], strict=True
    ):
        assert hidden[: int(t)].all() and not hidden[int(t)] and (track[int(t)] == (x, y)).all()
    strided = sample_queries_strided(occluded, points, video)
    times = strided["query_points"][0, :, 0]
    assert set(times) <= {0, 5, 10} and len(times) == (~occluded[:, ::5]).sum()
    for (t, y, x), track, hidden in zip(
        strided["query_points"][0], strided["target_points"][0], strided["occluded"][0], strict=True
    ):
        assert not hidden[int(t)] and (track[int(t)] == (x, y)).all()
    none = sample_queries_strided(np.ones((2, 12), bool), points[:2], video)
    assert none["query_points"].shape == (1, 0, 3)


def test_bad_input_is_one_clear_error():
    a, b = np.zeros((1, 2, 4, 2)), np.zeros((1, 2, 4), bool)
    with pytest.raises(UsageError, match="unknown query mode 'last': use first or strided"):
        compute_tapvid_metrics(np.zeros((1, 2, 3)), b, a, b, a, "last")
    with pytest.raises(ShapeError, match=r"pred_tracks has shape \(1, 2, 3, 2\), expected \(1, 2, 4, 2\)"):
        compute_tapvid_metrics(np.zeros((1, 2, 3)), b, a, b, a[:, :, :3], "first")
