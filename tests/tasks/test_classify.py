import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cssm.core.errors import DataError, ShapeError, UsageError
from cssm.tasks import Classify, Task
from cssm.tasks.classify import binary_cross_entropy, cross_entropy


class Probe(nnx.Module):
    """Linear in the mean colour."""

    def __init__(self, classes=3):
        self.w = nnx.Param(jnp.asarray(np.random.default_rng(0).normal(size=(3, classes)), jnp.float32))

    def __call__(self, x, *, key=None):
        return x.mean((1, 2)) @ self.w[...].astype(x.dtype)


def make_batch(size=5, classes=3, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "input": rng.integers(0, 256, (size, 4, 4, 3)).astype(np.uint8),
        "label": rng.integers(0, classes, size).astype(np.int32),
        "valid": np.ones(size, bool),
    }


def numpy_cross_entropy(logits, target):
    logits = np.asarray(logits, np.float64)
    return -(target * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_formula(smoothing):
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32) * 5
    labels = np.array([0, 1, 2, 3, 0, 1], np.int32)
    target = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4
    got = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(got, numpy_cross_entropy(logits, target), rtol=2e-6, atol=2e-7)
    soft = cross_entropy(jnp.asarray(logits), jnp.eye(4)[labels], smoothing)
    np.testing.assert_allclose(soft, got, rtol=1e-6, atol=1e-7)


def test_mixed_labels_weigh_both_classes():
    logits = jnp.array([[2.0, -1.0, 0.5]])
    mixed = cross_entropy(logits, jnp.array([[0.3, 0.7, 0.0]]))
    ends = cross_entropy(jnp.tile(logits, (2, 1)), jnp.array([0, 1]))
    np.testing.assert_allclose(mixed[0], 0.3 * ends[0] + 0.7 * ends[1], rtol=1e-6)
    batch = {"input": jnp.zeros((1, 2, 2, 3)), "label": jnp.array([[0.3, 0.7, 0.0]]), "valid": jnp.array([True])}
    sums = Classify(num_classes=3).evaluate(lambda x, key=None: jnp.array([[0.0, 5.0, 0.0]]), batch)
    assert int(sums["correct_sum"]) == 1


def figures(task, model, batch):
    return task.summarise(task.evaluate(model, task.prepare(batch)))


def test_padding_rows_change_neither_loss_nor_gradient_nor_sums():
    task, model, batch = Classify(num_classes=3, label_smoothing=0.2), Probe(), make_batch()
    padded = {
        "input": np.concatenate([batch["input"], np.full((3, 4, 4, 3), 255, np.uint8)]),
        "label": np.concatenate([batch["label"], [-1, 7, 0]]).astype(np.int32),
        "valid": np.arange(8) < 5,
    }

    def run(batch):
        def loss_of(model):
            value, weight, sums = task.loss(model, task.prepare(batch), None)
            return value, (weight, sums)

        (loss, (weight, sums)), grads = jax.value_and_grad(loss_of, has_aux=True)(model)
        return loss, weight, sums, jax.tree.leaves(grads)[0]

    for got, want in zip(jax.tree.leaves(run(padded)), jax.tree.leaves(run(batch)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert figures(task, model, padded) == pytest.approx(figures(task, model, batch))


def test_sums_of_parts_are_the_sums_of_the_whole():
    task, model, batch = Classify(num_classes=3), Probe(), make_batch(size=11)
    parts = [{key: value[a:b] for key, value in batch.items()} for a, b in ((0, 4), (4, 5), (5, 11))]
    sums = [task.evaluate(model, task.prepare(part)) for part in parts]
    total = {name: sum(np.asarray(s[name], np.float64) for s in sums) for name in sums[0]}
    assert task.summarise(total) == pytest.approx(figures(task, model, batch), rel=1e-6)
    assert task.summarise(total)["count"] == 11


def test_evaluation_is_plain_and_deterministic_training_is_not():
    keys = []

    def model(x, key=None):
        keys.append(key)
        return jnp.array([[4.0, 0.0]] * len(x))

    task = Classify(label_smoothing=0.5)
    batch = {"input": jnp.zeros((2, 1, 1, 3)), "label": jnp.array([0, 1]), "valid": jnp.array([True, True])}
    key = jax.random.key(1)
    smoothed, weight, _ = task.loss(model, batch, key)
    plain = task.summarise(task.evaluate(model, batch))
    assert weight == 2
    assert keys[0] is key and keys[1] is None
    assert plain["accuracy"] == 0.5
    assert plain["loss"] == pytest.approx(np.log(1 + np.exp(-4)) + 2)
    assert float(smoothed) == pytest.approx(
        np.log(1 + np.exp(-4)) + 2
    )  # symmetric labels: smoothing moves nothing here
    one = {key: value[:1] for key, value in batch.items()}
    assert float(task.loss(model, one, key)[0]) == pytest.approx(np.log(1 + np.exp(-4)) + 0.25 * 4)


@pytest.mark.parametrize(
    "normalization, expected",
    [
        ("imagenet", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("unit", lambda x: x / 255),
        ("symmetric", lambda x: x / 127.5 - 1),
        ("none", lambda x: x),
    ],
)
def test_normalization_is_of_integers_alone(normalization, expected):
    task, batch = Classify(num_classes=3, normalization=normalization), make_batch()
    prepared = task.prepare(batch)
    np.testing.assert_allclose(prepared["input"], expected(batch["input"].astype(np.float64)), rtol=1e-5, atol=1e-6)
    assert prepared["input"].dtype == jnp.float32
    np.testing.assert_array_equal(task.prepare(prepared)["input"], prepared["input"])
    assert task.prepare(batch, jnp.bfloat16)["input"].dtype == jnp.bfloat16


def test_logits_in_bfloat16_give_a_float32_loss():
    loss, _, sums = Classify(num_classes=3).loss(Probe(), Classify().prepare(make_batch(), jnp.bfloat16), None)
    assert loss.dtype == jnp.float32 and sums["loss_sum"].dtype == jnp.float32


@pytest.mark.parametrize("label", [-1, 3, 100])
def test_a_label_outside_the_classes_makes_the_loss_nan(label):
    batch = make_batch(size=2) | {"label": np.array([0, label], np.int32)}
    task = Classify(num_classes=3)
    assert np.isnan(task.loss(Probe(), task.prepare(batch), None).value)


def test_errors_name_the_thing_and_the_remedy():
    with pytest.raises(ShapeError, match=r"\(5, 3\), expected \(5, 2\): set num_classes"):
        Classify().evaluate(Probe(), Classify().prepare(make_batch()))
    with pytest.raises(ShapeError, match="3 channels, the input has 1: use unit"):
        Classify().prepare({"input": np.zeros((2, 4, 4, 1), np.uint8)})
    with pytest.raises(DataError, match="no valid row"):
        Classify().summarise({"loss_sum": 0.0, "correct_sum": 0, "count": 0})
    for options in ({"num_classes": 1}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}):
        with pytest.raises(UsageError, match=next(iter(options))):
            Classify(**options)
    task = Classify()
    object.__setattr__(task, "normalization", "zscore")  # past the type check that only tests have
    with pytest.raises(UsageError, match="'zscore' is unknown: choose imagenet"):
        task.__post_init__()
    assert isinstance(task, Task)


def test_binary_cross_entropy_is_of_every_class_and_mixed_classes_count_in_full(unchecked):
    logits = jnp.array([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    want = np.array(
        [[-np.log(1 / (1 + np.exp(-z if y else z))) for z, y in zip(*row, strict=True)]
         for row in zip(np.asarray(logits), [[1, 0, 1], [0, 1, 0]], strict=True)]
    )  # fmt: skip
    mixed = jnp.array([[0.6, 0.0, 0.4], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(binary_cross_entropy(logits, mixed), want.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(binary_cross_entropy(logits[1:], jnp.array([1])), want[1:].mean(-1), rtol=1e-5)
    smooth = binary_cross_entropy(jnp.zeros((1, 2)), jnp.array([0]), 0.2)
    np.testing.assert_allclose(smooth, np.log(2), rtol=1e-6)
    assert np.isnan(binary_cross_entropy(logits, jnp.array([0, 3]))).tolist() == [False, True]
    task = Classify(num_classes=3, criterion="sigmoid")
    batch = {"input": logits, "label": mixed, "valid": jnp.array([True, False])}
    loss = task.loss(lambda x, key=None: x, batch, None)
    np.testing.assert_allclose(loss.value, want[0].mean(), rtol=1e-5)
    plain = task.evaluate(lambda x, key=None: x, batch)["loss_sum"]  # validation keeps one scale for both
    np.testing.assert_allclose(plain, -(mixed[0] * jax.nn.log_softmax(logits[0])).sum(), rtol=1e-5)
    with pytest.raises(UsageError, match="criterion 'hinge' is unknown: choose softmax or sigmoid"):
        Classify(criterion="hinge")
