import numpy as np
import pytest

from cssm.core.errors import UsageError
from cssm.data import PathTracker, Source
from cssm.data.baselines import fit_logistic, histogram, markers_only


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
