"""A tracker judged video by video: queries, means, all points together, videos by name."""

import numpy as np
import pytest

from cssm.core.errors import DataError, UsageError
from cssm.data.formats.tapvid import TapVideo, write_tapvid
from cssm.recipes.points import answers, as_standing_still, point_videos, score, score_all
from cssm.tasks.tapvid import compute_tapvid_metrics, standing_still


def clips():
    """Two videos of other lengths and numbers of points; in the second, one point is never seen."""
    rng, out = np.random.RandomState(0), []
    for name, points, steps in (("a", 3, 9), ("b", 4, 7)):
        occluded = rng.rand(points, steps) < 0.4
        occluded[:, 1] = False
        if name == "b":
            occluded[2] = True
        video = rng.randint(0, 255, (steps, 20, 30, 3)).astype(np.uint8)
        out.append(TapVideo(name, video, rng.rand(points, steps, 2), occluded))
    return out


def still(video, queries):
    occluded, tracks = standing_still(queries, len(video))
    return tracks, ~occluded


def wandering(video, queries):
    """Wrong by some px, seen or not at random, the same for the same queries."""
    rng = np.random.RandomState(int(queries.sum()) % 1000)
    tracks, visible = still(video, queries)
    return tracks + rng.normal(size=tracks.shape) * 4, rng.rand(*visible.shape) < 0.7


@pytest.mark.parametrize("mode", ["first", "strided"])
def test_metrics_are_those_of_tapvid_at_256_px(mode):
    found = list(answers(wandering, clips(), mode))
    asked = 3 if mode == "first" else (~clips()[1].occluded[:, ::5]).sum()
    assert [answer.name for answer in found] == ["a", "b"] and len(found[1].occluded) == asked
    for answer in found:
        assert answer.tracks.max() > 100, "px at 256 x 256"
        for (t, y, x), track in zip(answer.query_points, answer.tracks, strict=True):
            np.testing.assert_allclose(track[int(t)], (x, y))
        batch = answer.query_points, answer.occluded, answer.tracks, answer.said_occluded, answer.said_tracks
        expected = compute_tapvid_metrics(*(x[None] for x in batch), mode)
        for name, value in expected.items():
            np.testing.assert_allclose(score(answer, mode)[name], value[0])
    scores = score_all(found, mode)
    both = [score(answer, mode)["average_jaccard"] for answer in found]
    assert scores.mean["average_jaccard"] == pytest.approx(np.mean(both))
    assert list(scores.videos) == ["a", "b"] and scores.videos["b"]["average_jaccard"] == pytest.approx(both[1])


def test_the_baseline_of_answers_is_that_of_a_tracker_that_stands_still():
    same = map(as_standing_still, answers(wandering, clips()))
    for found, expected in zip(same, answers(still, clips()), strict=True):
        for a, b in zip(found[1:], expected[1:], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
        assert np.hypot(*(found.said_tracks - found.query_points[:, None, :0:-1]).T).max() == 0


def test_all_points_together_are_one_video():
    scores = score_all(answers(wandering, [clips()[0]] * 3))
    assert list(scores.videos) == ["a", "a #2", "a #3"], "none is lost"
    for name, value in scores.pooled.items():
        assert value == pytest.approx(scores.mean[name]), name
    mixed = score_all(answers(wandering, clips()))
    assert mixed.pooled["average_jaccard"] != pytest.approx(mixed.mean["average_jaccard"], rel=1e-6)


def test_videos_without_an_answer_are_left_out_of_a_mean_and_no_video_is_an_error():
    hidden = clips()[0]._replace(name="c", occluded=np.ones((3, 9), bool))
    last = clips()[0]._replace(name="d")
    last.occluded[:, :-1] = True
    last.occluded[:, -1] = False
    scores = score_all(answers(wandering, [clips()[0], hidden, last]))
    assert list(scores.videos) == ["a", "d"], "no point of c is ever seen"
    assert np.isnan(scores.videos["d"]["average_jaccard"]), "no frame after the query's"
    assert scores.mean["average_jaccard"] == pytest.approx(scores.videos["a"]["average_jaccard"])
    with pytest.raises(UsageError, match="no video with a point"):
        score_all(answers(wandering, [hidden]))


def test_the_files_own_queries_win(tmp_path):
    clip = clips()[0]
    queries = np.array([[1, 0.5, 0.25], [1, 0.1, 0.2], [1, 0.3, 0.4]])
    [found] = answers(still, [clip._replace(query_points=queries)])
    np.testing.assert_allclose(found.query_points, queries * (1, 256, 256))


def test_videos_by_name(tmp_path):
    path = write_tapvid(tmp_path / "a.pkl", clips())
    assert [clip.name for clip in point_videos("tapvid_davis", path)] == ["a", "b"]
    for name, folder, message in (
        ("davis", None, "unknown videos 'davis'"),
        ("tapvid_davis", None, "give its .pkl"),
        ("synthetic-v1-hard", path, "is generated"),
    ):
        with pytest.raises(UsageError, match=message):
            point_videos(name, folder)
    with pytest.raises(DataError, match="no file"):
        list(point_videos("robotap", tmp_path / "none.pkl"))
    with pytest.raises(UsageError, match="unknown query mode"):
        list(answers(still, clips(), "last"))
