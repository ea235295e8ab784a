"""What the label gives away without vision: accuracies to print beside every model's.

`markers_only` and `histogram` are logistic regressions fitted on the first two thirds of the samples and scored on the
last third; `majority` is fitted on the training split and scored on another. None is scored on rows it was fitted on.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cssm.core.errors import DataError, UsageError

from .dataset import DataSet
from .source import Batch, Source, labels_of

SAMPLES = 3000  # used by default
CHUNK = 256  # samples in memory at once
LEVELS = 4  # of each colour channel
RIDGE = 1.0  # on standardised features; keeps a separable fit finite


class Baseline(NamedTuple):
    """The figure, an accuracy here, that the shortcut `name` reaches on `samples` held-out samples, with its error."""

    name: str
    value: float
    standard_error: float
    samples: int

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.standard_error:.3f} (n = {self.samples})"


def shortcut(data: DataSet, source: Source, train: Source | None = None, *, n: int = SAMPLES) -> Baseline:
    """The baseline that is known for a data set, on a split of it.

    Args:
        data: the data set; its `baseline` says which shortcut is known.
        source: the split to score on.
        train: the training split, for the majority class; by default all of `data`'s.
        n: samples used, at most (see `markers_only`, `majority`).

    Returns `markers_only`, or `majority` where that is known, or where the samples have no markers (published files).

    >>> from cssm.data import Digits
    >>> shortcut(Digits(), Digits().source("val")).name
    'majority_class'
    """
    if data.baseline == "markers" and "markers" in source.batch([0]):
        return markers_only(source, min(n, len(source)))
    return majority(data.source("train") if train is None else train, source, n)


def majority(train: Source, source: Source, n: int = SAMPLES) -> Baseline:
    """Accuracy of always answering the class that is most frequent in `train`, scored on `source`.

    Args:
        train: the training split; its labels are counted.
        source: the split to score on.
        n: samples of each that are read, evenly spread over it; all count where labels are known without reading.

    Raises DataError when either has no readable sample.
    """
    known, asked = _spread_labels(train, n), _spread_labels(source, n)
    if not known.size or not asked.size:
        raise DataError("the majority class needs a readable sample in train and in the split that is scored")
    return _scored("majority_class", asked == np.bincount(known).argmax())


def _spread_labels(source: Source, n: int) -> np.ndarray:
    """Labels of all samples where they are known, else of at most n evenly spread ones that can be read."""
    count = len(source) if source.known_labels is not None else min(n, len(source))
    labels = labels_of(source, np.arange(count) * len(source) // max(count, 1))
    return labels[labels >= 0]


def markers_only(source: Source, n: int = SAMPLES) -> Baseline:
    """Accuracy from the distance of the two markers alone (logistic regression, quadratic in distance).

    Args:
        source: a two-class source with `markers`.
        n: samples used, the first n of the source; a third of them are held out.

    Raises UsageError when the source has no markers, has other labels than 0 and 1, or n does not fit.

    >>> from cssm.data import PathTracker
    >>> bool(markers_only(PathTracker(foil="random", style="equal").source(size=900), 900).value > 0.65)
    True
    """
    features, label = _collect(source, n, _distance)
    return _held_out("markers_only", np.concatenate([features, features**2], axis=1), label)


def histogram(source: Source, n: int = SAMPLES) -> Baseline:
    """Accuracy from the colour counts alone: how many pixels have each of 64 colours, over all frames.

    Args and errors as `markers_only`; needs no markers.
    """
    return _held_out("colour_histogram", *_collect(source, n, _colour_counts))


def _distance(batch: Batch) -> np.ndarray:
    """(b, 1) px."""
    if "markers" not in batch:
        raise UsageError("the markers-only baseline needs a source with 'markers': published files carry none")
    markers = batch["markers"].astype(np.float64)
    return np.linalg.norm(markers[:, 0] - markers[:, 1], axis=-1)[:, None]


def _colour_counts(batch: Batch) -> np.ndarray:
    """(b, 64) pixel counts."""
    level = batch["input"].reshape(len(batch["label"]), -1, 3) // (256 // LEVELS)
    code = (level[..., 0] * LEVELS + level[..., 1]) * LEVELS + level[..., 2]
    return np.stack([np.bincount(row, minlength=LEVELS**3) for row in code]).astype(np.float64)


def _collect(source: Source, n: int, feature: Callable[[Batch], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """features (n, f) and labels (n,) of the first n samples; unreadable ones are left out."""
    if not 9 <= n <= len(source):
        raise UsageError(f"a baseline on {n} samples does not fit a source of {len(source)}: choose 9..{len(source)}")
    features, labels = [], []
    for begin in range(0, n, CHUNK):
        batch = source.batch(np.arange(begin, min(n, begin + CHUNK)))
        valid = batch.get("valid", np.ones(len(batch["label"]), bool))
        features.append(feature(batch)[valid])
        labels.append(batch["label"][valid])
    label = np.concatenate(labels)
    if len(label) < 9:
        raise DataError(f"only {len(label)} of {n} samples can be read: a baseline needs 9")
    if not np.isin(label, (0, 1)).all():
        raise UsageError(f"a baseline needs labels 0 and 1: this source has label {label[~np.isin(label, (0, 1))][0]}")
    return np.concatenate(features), label


def _held_out(name: str, features: np.ndarray, label: np.ndarray) -> Baseline:
    """Fitted on the first two thirds, scored on the last third."""
    cut = len(label) - len(label) // 3
    mean, spread = features[:cut].mean(0), features[:cut].std(0)
    features = (features - mean) / np.where(spread > 1e-9, spread, 1.0)
    features = np.concatenate([np.ones((len(label), 1)), features], axis=1)
    weights = fit_logistic(features[:cut], label[:cut])
    return _scored(name, (features[cut:] @ weights > 0) == label[cut:])


def _scored(name: str, correct: np.ndarray) -> Baseline:
    accuracy = float(np.mean(correct))
    return Baseline(name, accuracy, float(np.sqrt(accuracy * (1 - accuracy) / len(correct))), len(correct))


def fit_logistic(features: np.ndarray, label: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Weights (f,) of a logistic regression of label (n,) on features (n, f), by damped Newton steps (IRLS).

    Minimises the summed log loss + ridge / 2 |w|^2, the first weight (the intercept) unpenalised.
    """
    penalty = np.full(features.shape[1], ridge)
    penalty[0] = 1e-9

    def loss(weights: np.ndarray) -> float:
        logit = features @ weights
        return float(np.sum(np.logaddexp(0, logit) - label * logit) + 0.5 * np.sum(penalty * weights**2))

    weights = np.zeros(features.shape[1])
    for _ in range(100):
        chance = 1 / (1 + np.exp(-np.clip(features @ weights, -500, 500)))
        gradient = features.T @ (chance - label) + penalty * weights
        curvature = (features.T * (chance * (1 - chance))) @ features + np.diag(penalty)
        step, size, now = np.linalg.solve(curvature, gradient), 1.0, loss(weights)
        while size > 1e-6 and loss(weights - size * step) > now:
            size /= 2
        weights = weights - size * step
        if np.abs(step).max() < 1e-9:
            break
    return weights
