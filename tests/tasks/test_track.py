"""The tracking task: its sums are TAP-Vid's metrics, its loss is what its docstring says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cssm.core.errors import DataError
from cssm.data.tracks import Tracks
from cssm.models.tracker import COARSE, Found
from cssm.tasks import Task, Track
from cssm.tasks.tapvid import compute_tapvid_metrics, metrics_on, returned
from cssm.tasks.track import REACH, SURE, WEIGHTS, heat_loss
from cssm.viz.figure import figure

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def batch():
    made = Tracks(frames=10, size=64, points=6).source("val", size=4).batch(range(4))
    return {**made, "valid": np.array([True, True, True, False])}


@pytest.fixture(scope="module")
def found(batch):
    """What a model says that is wrong by some px, and not sure of it."""
    rng = np.random.RandomState(0)
    tracks = batch["tracks"] + rng.normal(size=batch["tracks"].shape) * rng.choice([0.5, 3, 20], (4, 6, 10, 1))
    logits = lambda: jnp.asarray(2 * rng.normal(size=(4, 6, 10)), jnp.float32)  # noqa: E731
    heat = jnp.asarray(rng.normal(size=(4, 6, 10, 8, 8)), jnp.float32)
    earlier = np.stack([tracks + 1, tracks - 0.5], -2)
    beneath = jnp.asarray(rng.normal(size=(4, 6, 10, 2, 8, 8)), jnp.float32)
    tracks, earlier = (jnp.asarray(x, jnp.float32) for x in (tracks, earlier))
    return Found(tracks, logits(), logits(), heat, beneath, earlier)


def model_of(found):
    return lambda video, queries, key=None: found


def test_it_is_a_task():
    assert isinstance(Track(), Task) and Track().monitor.higher_is_better


def test_figures_are_means_of_tapvids_metrics_over_valid_videos(batch, found):
    task = Track()
    figures = task.summarise(task.evaluate(model_of(found), task.prepare(batch)))
    said = ~np.asarray(found.visible), np.asarray(found.tracks)
    expected = compute_tapvid_metrics(batch["query_points"], batch["occluded"], batch["tracks"], *said, "first")
    for name in ("average_jaccard", "jaccard_4", "occlusion_accuracy", "average_pts_within_thresh"):
        assert figures[name] == pytest.approx(expected[name][:3].mean(), rel=1e-5), name
    jaccard = expected["average_jaccard"][:3]
    assert figures["average_jaccard_error"] == pytest.approx(jaccard.std() / 3**0.5, rel=1e-3)
    again = returned(batch["query_points"], batch["occluded"])
    after = metrics_on(again, batch["occluded"], batch["tracks"], *said)["average_jaccard"][:3]
    assert figures["count"] == 3 and np.isfinite(after).any()
    assert figures["jaccard_after_return"] == pytest.approx(np.nanmean(after), rel=1e-5)
    assert "AJ 0." in task.describe(figures)


def test_batches_add_up(batch, found):
    task = Track()
    sums = task.evaluate(model_of(found), task.prepare(batch))
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        part = jax.tree.map(lambda x, rows=rows: x[rows], found)
        parts.append(task.evaluate(model_of(part), task.prepare({k: v[rows] for k, v in batch.items()})))
    together = jax.tree.map(jnp.add, *parts)
    for name, value in task.summarise(sums).items():
        if name != "loss":  # of other numbers of frames, a mean in each
            assert task.summarise(together)[name] == pytest.approx(value, rel=1e-4), name


def test_the_loss_from_the_definition(batch, found):
    """Each part the mean over its frames, one after the other."""
    task, parts = Track(), {name: [0.0, 0.0] for name in WEIGHTS}

    def add(name, value, weight=1.0):
        parts[name][0] += weight * value
        parts[name][1] += weight

    huber = lambda d, delta: d**2 / 2 if d < delta else delta * (d - delta / 2)  # noqa: E731
    binary = lambda logit, truth: np.log1p(np.exp(-logit if truth else logit))  # noqa: E731
    maps = [found.heat, *jnp.moveaxis(found.beneath, 3, 0)]
    heat, *beneath = (np.asarray(heat_loss(each, jnp.asarray(batch["tracks"]))) for each in maps)
    values = jax.tree.map(np.asarray, found)
    for b in range(3):
        for n in range(6):
            for t in range(int(batch["query_points"][b, n, 0]) + 1, 10):
                truth, hidden = batch["tracks"][b, n, t], batch["occluded"][b, n, t]
                add("occluded", binary(values.occluded[b, n, t], hidden))
                inside = (truth >= 0).all() and (truth < 64).all()
                if inside:
                    add("heat", heat[b, n, t], 0.2 if hidden else 1.0)
                    add("beneath", np.mean([each[b, n, t] for each in beneath]), 0.2 if hidden else 1.0)
                if hidden:
                    continue
                away = np.sqrt(np.square(values.tracks[b, n, t] - truth).sum() + 1e-6)
                rough, refined = np.sqrt(np.square(values.earlier[b, n, t] - truth).sum(-1) + 1e-6)
                if rough < REACH:
                    add("rough", huber(rough, 4))
                    add("refined", huber(refined, 2))
                    add("place", huber(away, 1))
                add("unsure", binary(values.unsure[b, n, t], away > SURE))
    expected = sum(WEIGHTS[name] * total / max(weight, 1) for name, (total, weight) in parts.items())
    loss = task.loss(model_of(found), task.prepare(batch), None)
    assert float(loss.value) == pytest.approx(expected, rel=1e-4)
    assert float(loss.weight) == parts["occluded"][1]


def test_the_heat_map_is_right_where_the_point_is():
    """Least for the map that has all its weight on the four cells about the place, shared as between them."""
    place = np.array([[[[COARSE * 2.75, COARSE * 1.5]]]], np.float32)  # a quarter of the way from x = 2.5 to 3.5
    chances = np.full((4, 5), 1e-9)
    chances[1, 2], chances[1, 3] = 0.75, 0.25
    best = float(heat_loss(jnp.log(chances)[None, None, None], jnp.asarray(place))[0, 0, 0])
    assert best == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), rel=1e-5)
    for other in ([(1, 2, 0.5), (1, 3, 0.5)], [(1, 1, 0.75), (1, 2, 0.25)], [(2, 2, 0.75), (2, 3, 0.25)]):
        chances = np.full((4, 5), 1e-9)
        for i, j, share in other:
            chances[i, j] = share
        assert float(heat_loss(jnp.log(chances)[None, None, None], jnp.asarray(place))[0, 0, 0]) > best


def test_the_baseline_stands_still():
    source = Tracks(frames=10, size=64, points=6).source("val", size=4)
    batch = source.batch(range(4))
    still = np.repeat(batch["query_points"][:, :, None, :0:-1], 10, 2)
    seen = np.zeros((4, 6, 10), bool)
    expected = compute_tapvid_metrics(batch["query_points"], batch["occluded"], batch["tracks"], seen, still, "first")
    baseline = Track().baseline(Tracks(), source, source)
    assert baseline.name == "static" and baseline.samples == 4
    assert baseline.value == pytest.approx(expected["average_jaccard"].mean())


def test_no_valid_row_is_an_error(batch, found):
    task = Track()
    sums = task.evaluate(model_of(found), task.prepare({**batch, "valid": np.zeros(4, bool)}))
    with pytest.raises(DataError, match="no valid row"):
        task.summarise(sums)


def test_it_draws_and_says_what_it_found(tmp_path, found):
    source = Tracks(frames=10, size=64, points=6).source("val", size=4)
    with figure(tmp_path / "a.png") as empty:
        Track().draw(empty, model_of(found), source)
    assert Image.open(tmp_path / "a.png").size[0] > 600
    reading = Track().reading(jax.tree.map(lambda x: x[0, :, 0], found))
    assert len(reading["points"]) == 6 and len(Track().show(reading)) > 6
