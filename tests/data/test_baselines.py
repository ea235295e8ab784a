import miniatures
import numpy as np
import pytest

from cssm.core.errors import DataError, UsageError
from cssm.data import Digits, ImageFolder, PathTracker, Source, Subset
from cssm.data.baselines import fit_logistic, histogram, majority, markers_only, shortcut
from cssm.data.source import labels_of


class Planted(Source):
    """Label 1: markers 10 px apart and a light image, when `tell`; otherwise the two have nothing to do with it."""

    def __init__(self, size, tell, classes=2):
        self.size, self.tell, self.classes = size, tell, classes

    def __len__(self):
        return self.size

    def batch(self, indices):
        rng = np.random.default_rng(np.asarray(indices)[0])
        label = rng.integers(self.classes, size=len(indices)).astype(np.int32)
        cue = label if self.tell else rng.integers(2, size=len(indices))
        distance = rng.normal(20 - 10 * cue, 2)
        markers = np.zeros((len(indices), 2, 2), np.float32)
        markers[:, 1, 0] = distance
        image = rng.integers(0, 100, (len(indices), 8, 8, 3)) + 60 * cue[:, None, None, None]
        return {"input": image.astype(np.uint8), "label": label, "markers": markers}


def test_fit_logistic_agrees_with_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    label = (x @ [1.0, -2, 0.5, 0] + rng.logistic(size=300) > 0.3).astype(np.int32)
    ours = fit_logistic(np.concatenate([np.ones((300, 1)), x], 1), label, ridge=0.7)
    theirs = linear_model.LogisticRegression(C=1 / 0.7, tol=1e-10).fit(x, label)
    np.testing.assert_allclose(ours, np.r_[theirs.intercept_, theirs.coef_[0]], atol=1e-5)


def test_fit_logistic_is_finite_on_separable_data():
    x = np.array([[1.0, -1], [1, -2], [1, 1], [1, 2]])
    assert np.isfinite(fit_logistic(x, np.array([0, 0, 1, 1]))).all()


@pytest.mark.parametrize("baseline", [markers_only, histogram])
def test_baselines_find_a_planted_cue_and_no_other(baseline):
    told = baseline(Planted(900, tell=True), 900)
    assert told.value > 0.95 and told.samples == 300
    blind = baseline(Planted(1800, tell=False), 1800)
    assert abs(blind.value - 0.5) < 4 * blind.standard_error
    assert blind.standard_error == pytest.approx(np.sqrt(blind.value * (1 - blind.value) / 600))


class Labelled(Source):
    """Given labels; those that are -1 cannot be read."""

    def __init__(self, labels, known=False):
        self.labels = np.asarray(labels, np.int32)
        self.known_labels = self.labels if known else None

    def __len__(self):
        return len(self.labels)

    def batch(self, indices):
        if self.known_labels is not None:
            raise AssertionError("read, though the labels are known")
        label = self.labels[indices]
        return {"input": np.zeros((len(label), 2, 2, 3), np.uint8), "label": np.maximum(label, 0), "valid": label >= 0}


def test_baselines_are_scored_on_rows_they_were_not_fitted_on():
    """Labels that only their own rows give away: one pixel count that is unique to each row. Memory would score 1."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (90, 8, 8, 3), np.uint8)
    images[60:] = 255 - images[:30]

    class Noise(Labelled):
        def batch(self, indices):
            return {"input": images[indices], "label": self.labels[indices]}

    train, held = rng.integers(2, size=60), np.zeros(30)
    flipped = [histogram(Noise(np.r_[train, held + label]), 90) for label in (0, 1)]
    assert flipped[0].value + flipped[1].value == pytest.approx(1)  # the held-out labels changed nothing else
    assert flipped[0].samples == 30


def test_majority_is_of_train_and_scored_elsewhere():
    train, val = Labelled([2, 2, 2, 1, 0]), Labelled([2, 1, 1, 1, 1, 1, 0, 0])
    got = majority(train, val)
    assert got == ("majority_class", 1 / 8, pytest.approx(np.sqrt(7 / 8**3)), 8)
    assert majority(val, train).value == 1 / 5
    assert majority(train, val, n=4).samples == 4  # evenly spread: samples 0, 2, 4, 6
    assert majority(train, val, n=4).value == 1 / 4


def test_majority_reads_nothing_where_labels_are_known_and_skips_what_cannot_be_read():
    train, val = Labelled([1] * 6000 + [0] * 5999, known=True), Labelled([-1, 1, -1, 0])
    assert majority(train, val) == ("majority_class", 0.5, pytest.approx(np.sqrt(1 / 8)), 2)
    assert labels_of(val, [3, 2, 1]).tolist() == [0, -1, 1]
    assert labels_of(Subset(train, [6000, 0]), [0, 1]).tolist() == [0, 1]
    with pytest.raises(DataError, match="needs a readable sample"):
        majority(train, Labelled([-1]))


def test_shortcut_is_the_one_that_is_known(tmp_path):
    pytest.importorskip("sklearn")
    tracker = PathTracker(frames=8)
    source = tracker.source("val", size=90)
    assert shortcut(tracker, source, n=60) == markers_only(source, 60)
    assert shortcut(tracker, source) == markers_only(source, 90)
    bare = Labelled([0, 0, 1])  # as published files: no markers
    assert shortcut(tracker, bare, Labelled([1, 1, 0])) == majority(Labelled([1, 1, 0]), bare)
    miniatures.images_split(tmp_path)
    for data in (Digits(), ImageFolder(root=tmp_path)):
        val = data.source("val")
        assert shortcut(data, val) == shortcut(data, val, data.source("train")) == majority(data.source("train"), val)


def test_unreadable_samples_count_for_nothing():
    class Holes(Planted):
        """Every second sample cannot be read: no label, no markers."""

        def batch(self, indices):
            batch, valid = super().batch(indices), np.asarray(indices) % 2 == 0
            return {
                **{k: np.where(valid.reshape(-1, *[1] * (v.ndim - 1)), v, 0) for k, v in batch.items()},
                "valid": valid,
            }

    got = markers_only(Holes(900, tell=True), 900)
    assert got.samples == 150 and got.value > 0.95
    with pytest.raises(DataError, match="only 5 of 10 samples can be read"):
        markers_only(Holes(10, tell=True), 10)


def test_pathtracker_defaults_carry_no_shortcut():
    source = PathTracker(frames=8).source(size=1500)
    for baseline in (markers_only, histogram):
        got = baseline(source, 1500)
        assert abs(got.value - 0.5) < 3.5 * got.standard_error


def test_what_does_not_fit_is_a_usage_error():
    with pytest.raises(UsageError, match="does not fit a source of 20"):
        markers_only(Planted(20, tell=True), 21)
    with pytest.raises(UsageError, match="labels 0 and 1"):
        histogram(Planted(60, tell=True, classes=3), 60)

    class Bare(Planted):
        def batch(self, indices):
            batch = super().batch(indices)
            del batch["markers"]
            return batch

    with pytest.raises(UsageError, match="needs a source with 'markers'"):
        markers_only(Bare(30, tell=True), 30)
