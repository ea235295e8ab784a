"""A tiny model and tiny data with the contracts of the real ones, and a child process to kill."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from cssm.tasks import Classify
from cssm.train import TrainConfig, train
from cssm.train.log import read_metrics

SIZE = 6
TASK = Classify(num_classes=2, normalization="symmetric", label_smoothing=0.1)


class Tiny(nnx.Module):
    """(b, h, w, 3) -> (b, 2), with dropout when there is a key and a parameter named as a recurrence's.

    Few and small: most of a test's time is compilation.
    """

    def __init__(self, rngs, width=8):
        self.stem = nnx.Linear(3 * SIZE, width, rngs=rngs)
        self.recurrence_kernel = nnx.Param(rngs.normal((width, 3)) * 0.1)
        self.drop = nnx.Dropout(0.2)
        self.head = nnx.Linear(width, 2, use_bias=False, rngs=rngs)

    def __call__(self, x, *, key=None):
        x = x.mean(1).reshape(len(x), -1)
        x = nnx.relu(self.stem(x) + self.recurrence_kernel.sum(-1))
        return self.head(self.drop(x, rngs=key, deterministic=key is None))


def tiny(seed=0, width=8):
    return Tiny(nnx.Rngs(seed), width=width)


def rows(indices):
    """Sample i is a function of i: noise, brighter on the left for label 1."""
    images, labels = [], []
    for i in indices:
        rng = np.random.default_rng(i)
        label = int(rng.integers(2))
        image = rng.integers(0, 160, (SIZE, SIZE, 3))
        image[:, : SIZE // 2] += 60 * label
        images.append(image)
        labels.append(label)
    return np.array(images, np.uint8), np.array(labels, np.int32)


def batch(indices, size=None):
    """The rows, padded to `size` with rubbish that valid marks False."""
    images, labels = rows(indices)
    extra = 0 if size is None else size - len(labels)
    return {
        "input": np.concatenate([images, np.full((extra, SIZE, SIZE, 3), 255, np.uint8)]),
        "label": np.concatenate([labels, np.full(extra, 1, np.int32)]),
        "valid": np.arange(len(labels) + extra) < len(labels),
    }


class Endless:
    """Batch i is a function of i; the state is JSON."""

    def __init__(self, size=8, per_epoch=4, delay=0.0, change=lambda i, batch: batch):
        self.size, self.per_epoch, self.delay, self.change, self.i = size, per_epoch, delay, change, 0

    def __len__(self):
        return self.per_epoch

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(self.delay)
        start, self.i = self.i * self.size, self.i + 1
        return self.change(self.i, batch(range(start, start + self.size)))

    def get_state(self):
        return {"i": self.i}

    def set_state(self, state):
        self.i = state["i"]


def validation(count=21, size=8, start=10_000):
    """One pass, the tail padded."""
    cuts = [range(start + i, start + min(i + size, count)) for i in range(0, count, size)]
    return [batch(cut, size) for cut in cuts]


def config(**options):
    defaults = {"steps": 12, "batch_size": 8, "lr": 0.02, "warmup_steps": 3, "eval_every": 4, "checkpoint_every": 5}
    return TrainConfig(**(defaults | {"log_every": 1, "logger": "jsonl", "progress": False} | options))


def fit(run_dir, *, model=None, data=None, options=None, **kwargs):
    """Train the toy; returns (result, model)."""
    model = model or tiny()
    options = {"ema": 0.9} | (options or {})
    return train(model, TASK, data or Endless(), validation(), config(**options), run_dir, **kwargs), model


def curve(run_dir):
    """Every record without what the clock and the machine decide."""
    skip = ("seconds", "samples_per_second", "memory_mib")
    records = read_metrics(Path(run_dir) / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in skip} for record in records]


def assert_same_curve(run_dir, want_dir, tolerance=1e-6):
    """The same records in the same order, to a relative and absolute tolerance."""
    records, want = curve(run_dir), curve(want_dir)
    assert [(r["kind"], r["step"]) for r in records] == [(r["kind"], r["step"]) for r in want]
    for record, other in zip(records, want, strict=True):
        assert record.pop("kind") == other.pop("kind")
        assert record == pytest.approx(other, rel=tolerance, abs=tolerance)


def parameters(model):
    return {"/".join(map(str, path)): np.asarray(v[...]) for path, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}


if __name__ == "__main__":  # run_dir, options, delay: a run to be killed, or to be run on other devices
    fit(sys.argv[1], data=Endless(delay=float(sys.argv[3])), options=json.loads(sys.argv[2]))
