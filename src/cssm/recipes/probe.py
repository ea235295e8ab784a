"""Probes of frozen features: how well a linear classifier, or the nearest neighbours, tell the classes apart.

Features are the model's, averaged over space and frames. The linear probe is multinomial logistic regression on
standardised features, its penalty chosen on a held-out fifth of the training samples; the k-NN probe lets the k most
similar training samples vote, by exp(cosine / .07) (Wu et al. 2018). Both stand beside the same probe on the features
of random parameters, and on pixels.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cssm.core.errors import DataError, UsageError
from cssm.core.files import replacing
from cssm.core.typing import Float
from cssm.data import Source
from cssm.data.source import take
from cssm.tasks import Task
from cssm.train import Event
from cssm.train.progress import say

MOST = 50_000  # training samples of a probe
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
ROUNDS = 200  # of L-BFGS
HOLDOUT = 5  # one in so many training samples chooses the penalty
NEIGHBOURS = 20
TEMPERATURE = 0.07
SIDE = 16  # pixels along each side that the probe of pixels sees, at most
ROWS = 64  # samples at a time
ORDER = 42  # seed of the order in which samples are taken, where not all are: files may come class by class


class Features(NamedTuple):
    """Of n samples."""

    values: np.ndarray
    """float32 (n, c)."""
    labels: np.ndarray
    """int32 (n,)."""


Read = Callable[[Any], Any]  # input (b, ...) -> features (b, c)


def features_of(
    reads: Mapping[str, Read], task: Task, source: Source, classes: int, most: int = MOST, title: str = ""
) -> dict[str, Features]:
    """The features that each of `reads` gives of the samples of a source, read once: all, or `most` of them at random.

    title: of a progress bar on a terminal; "" for none.

    Raises DataError when no sample can be read, for labels outside 0..classes-1, and for features that are not finite.
    """
    from rich.console import Console
    from rich.progress import track

    source = take(source, most, ORDER) if most < len(source) else source
    console, values, labels = Console(stderr=True), {name: [] for name in reads}, []
    hidden = not (title and console.is_terminal)
    for begin in track(range(0, len(source), ROWS), title, console=console, disable=hidden):
        batch = source.batch(range(begin, min(begin + ROWS, len(source))))
        valid = np.asarray(batch.get("valid", np.ones(len(batch["label"]), bool)))
        x = jnp.asarray(task.prepare(batch)["input"])
        filled = jnp.concatenate([x, jnp.repeat(x[-1:], ROWS - len(x), 0)])  # one shape: one program
        for name, read in reads.items():
            values[name].append(np.asarray(read(filled), np.float32)[: len(x)][valid])
        labels.append(np.asarray(batch["label"])[valid])
    label = np.concatenate(labels).astype(np.int32)
    found = {name: Features(np.concatenate(parts), label) for name, parts in values.items()}
    _check(found, classes)
    return found


def _check(found: Mapping[str, Features], classes: int) -> None:
    for name, (values, labels) in found.items():
        if not len(labels):
            raise DataError("no sample of the split can be read: there is nothing to probe")
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(
                f"labels {labels.min()} to {labels.max()} are not 0 to {classes - 1}: the split has no labels"
            )
        if not np.isfinite(values).all():
            raise DataError(f"{name}: features are not finite: the model has come to NaN, or the pixels are")


@partial(jax.jit, static_argnums=0)
def _pooled(graph: Any, params: Any, x: Any) -> Any:
    found = nnx.merge(graph, params).features(x)
    return found.mean(tuple(range(1, found.ndim - 1)))


def pooled(model: Any) -> Read:
    """The model's features averaged over all axes but batch and channels, compiled once for models of one structure."""
    if not hasattr(model, "features"):
        raise UsageError(f"{type(model).__name__} has no features to probe: choose a run that classifies")
    return partial(_pooled, *nnx.split(model))


def pixels(x: Float[Any, "b *t h w c"]) -> np.ndarray:
    """Mean over frames, means of blocks of pixels so that at most 16 x 16 are left, flat."""
    x = np.asarray(x, np.float32)
    x = x.mean(1) if x.ndim == 5 else x
    rows, columns = (np.array_split(np.arange(n), min(n, SIDE)) for n in x.shape[1:3])
    x = np.stack([x[:, part].mean(1) for part in rows], 1)
    return np.stack([x[:, :, part].mean(2) for part in columns], 2).reshape(len(x), -1)


def linear_probe(train: Features, test: Features, classes: int) -> float:
    """The accuracy on `test` of logistic regression of `train`.

    >>> rng = np.random.default_rng(0)
    >>> labels = (np.arange(90) % 3).astype(np.int32)
    >>> values = np.eye(3, dtype=np.float32)[labels] + rng.normal(0, 0.1, (90, 3)).astype(np.float32)
    >>> linear_probe(Features(values[:60], labels[:60]), Features(values[60:], labels[60:]), 3)
    1.0
    """
    mean, deviation = train.values.mean(0), train.values.std(0) + 1e-6
    train, test = (Features((x - mean) / deviation, y) for x, y in (train, test))
    held = np.random.RandomState(42).permutation(len(train.labels)) % HOLDOUT == 0
    chosen = Features(train.values[held], train.labels[held])
    if len(train.labels) < HOLDOUT:
        raise UsageError(f"{len(train.labels)} training samples are too few for a linear probe: give at least 5")
    scores = [_right(_regress(train, ~held, penalty, classes), chosen) for penalty in PENALTIES]
    return _right(_regress(train, np.ones_like(held), PENALTIES[int(np.argmax(scores))], classes), test)


def _regress(train: Features, used: np.ndarray, penalty: float, classes: int) -> np.ndarray:
    """Weights (c + 1, classes) of the least mean cross-entropy + penalty |weights|^2 / 2 of the rows that are used; the
    last row of them is free."""
    return np.asarray(_minimised(_with_one(train.values), train.labels, used, penalty, classes))


@jax.jit(static_argnums=4)
def _minimised(x: Any, y: Any, used: Any, penalty: Any, classes: int) -> jax.Array:
    def loss(weights: jax.Array) -> jax.Array:
        fit = optax.softmax_cross_entropy_with_integer_labels(x @ weights, y).mean(where=used)
        return fit + penalty / 2 * jnp.square(weights[:-1]).sum()

    solver, value = optax.lbfgs(), optax.value_and_grad_from_state(loss)

    def improved(carry: tuple, _: None) -> tuple[tuple, None]:
        weights, state = carry
        now, slope = value(weights, state=state)
        updates, state = solver.update(slope, state, weights, value=now, grad=slope, value_fn=loss)
        return (optax.apply_updates(weights, updates), state), None

    start = jnp.zeros((x.shape[1], classes))
    return jax.lax.scan(improved, (start, solver.init(start)), None, length=ROUNDS)[0][0]


def _with_one(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, np.ones((len(values), 1), np.float32)], 1)


def _right(weights: np.ndarray, test: Features) -> float:
    return float(((_with_one(test.values) @ weights).argmax(1) == test.labels).mean())


def knn_probe(train: Features, test: Features, classes: int, neighbours: int = NEIGHBOURS) -> float:
    """The accuracy on `test` of the votes of the most similar samples of `train`.

    >>> train = Features(np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32))
    >>> knn_probe(train, Features(train.values + 0.1, train.labels), 3, neighbours=1)
    1.0
    """
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)  # noqa: E731
    known, neighbours, right = unit(train.values), min(neighbours, len(train.labels)), 0
    for begin in range(0, len(test.labels), 1000):
        similar = unit(test.values[begin : begin + 1000]) @ known.T
        nearest = np.argpartition(-similar, neighbours - 1, axis=1)[:, :neighbours]
        votes = np.exp((np.take_along_axis(similar, nearest, 1) - 1) / TEMPERATURE)
        counts = np.zeros((len(similar), classes), np.float64)
        np.add.at(counts, (np.arange(len(similar))[:, None], train.labels[nearest]), votes)
        right += int((counts.argmax(1) == test.labels[begin : begin + 1000]).sum())
    return right / len(test.labels)


PROBES = ("linear", "knn")


def neighbours_of(run: Any) -> int:
    """k of the k-NN probe: the task's, where it has one."""
    return getattr(run.task, "neighbours", 0) or NEIGHBOURS


def probe(kind: str, run: Any, model: Any, split: str) -> dict[str, float]:
    """The accuracy of a probe on a split: of the model's features, of those of random parameters, of pixels; how many.

    Raises:
      UsageError: an unknown probe; data without classes; a model without features. DataError: as `features_of`.
    """
    if kind not in PROBES:
        raise UsageError(f"unknown probe {kind!r}: use {' or '.join(PROBES)}")
    if "label" not in run.data.sample_spec:
        raise UsageError(f"{type(run.data).__name__} has no classes: there is nothing to probe")
    classes, knn = run.data.num_classes, partial(knn_probe, neighbours=neighbours_of(run))
    judged = linear_probe if kind == "linear" else knn
    reads = {"features": pooled(model), "random": pooled(run.build()), "pixels": pixels}
    known, asked = (features_of(reads, run.task, run.source(s), classes, title=s) for s in ("train", split))
    counts = {"count": float(len(asked["pixels"].labels)), "train_count": float(len(known["pixels"].labels))}
    return {name: judged(known[name], asked[name], classes) for name in reads} | counts


class NeighbourProbe:
    """At every evaluation, the k-NN probe of the parameters of that moment: a line, and one of probes.jsonl."""

    TRAIN, ASKED = 2000, 1000  # samples, at most

    def __init__(self, run: Any, asked: Source, train: Source):
        self.run, self.asked, self.train = run, asked, train

    def __call__(self, event: Event) -> None:
        if event.kind != "eval":
            return
        reads, classes = {"features": pooled(event.model())}, self.run.data.num_classes
        samples = (self.train, self.TRAIN), (self.asked, self.ASKED)
        known, asked = (features_of(reads, self.run.task, s, classes, n)["features"] for s, n in samples)
        accuracy = knn_probe(known, asked, classes, neighbours_of(self.run))
        record = {"step": event.step, "knn_accuracy": round(accuracy, 4), "count": len(asked.labels)}
        path = event.run_dir / "probes.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        before = [line for line in lines if json.loads(line)["step"] < event.step]  # a resumed run repeats some
        with replacing(path) as new:
            new.write_text("\n".join([*before, json.dumps(record)]) + "\n")
        say(f"step {event.step}: k-NN probe {accuracy:.4f} (n = {len(asked.labels)})")
