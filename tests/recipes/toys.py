"""A model, a task and a data set of one's own, outside cssm: the brightness of moving blobs, by regression.

`python toys.py COMMAND ...` is the command line of cssm with them in it, as CONTRIBUTING.md tells users to do.
"""

import dataclasses
import sys
import time
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.cli import main
from cssm.data import DATASETS, DataSet, Source, Spec
from cssm.data.baselines import Baseline
from cssm.data.dataset import check_split
from cssm.data.source import checked_indices
from cssm.models import MODELS, Model
from cssm.recipes import RECIPES, Run
from cssm.tasks import Loss, Monitor
from cssm.tasks.picture import draw_stimuli
from cssm.tasks.task import check_parts
from cssm.train import TrainConfig, loadable


@DATASETS.register("blobs")
@loadable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Blobs(DataSet):
    """Clips of noise whose mean brightness is the target."""

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    class_names: ClassVar[tuple[str, ...]] = ()
    baseline: ClassVar[str] = "mean"

    frames: int = 3
    """Frames of a clip."""
    delay: float = 0.0
    """Seconds that a batch takes: time to kill a run."""

    @property
    def sample_spec(self):
        return {"input": Spec((self.frames, 5, 7, 1), "uint8"), "target": Spec((2,), "float32")}

    def source(self, split="train", *, size=None, seed=0):
        check_split(self, "blobs", split)
        return BlobSource(self, self.splits.index(split), 64 if size is None else size)


class BlobSource(Source):
    def __init__(self, data, split, size):
        self.data, self.split, self.size = data, split, size

    def __len__(self):
        return self.size

    def batch(self, indices):
        time.sleep(self.data.delay)
        clips = np.stack([self._clip(i) for i in checked_indices(indices, self.size)])
        mean = clips.mean((1, 2, 3, 4), dtype=np.float32) / 255
        return {"input": clips, "target": np.stack([mean, 1 - mean], -1)}

    def _clip(self, i):
        rng = np.random.default_rng([self.split, int(i)])
        return rng.integers(0, rng.integers(2, 256), self.data.sample_spec["input"].shape).astype(np.uint8)


@loadable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Regress:
    """Mean squared error of two targets; the lowest error is the best."""

    keys: ClassVar[tuple[str, ...]] = ("input", "target")
    monitor: ClassVar[Monitor] = Monitor("error", higher_is_better=False)

    targets: int = 2
    """Numbers to predict."""

    @property
    def outputs(self):
        return self.targets

    def fitted(self, data):
        return dataclasses.replace(self, targets=data.sample_spec["target"].shape[0])

    def check(self, data, model):
        check_parts(self, data, model)

    def prepare(self, batch, dtype=None):
        assert batch["input"].dtype == jnp.uint8, "prepared twice"
        x = jnp.asarray(batch["input"], jnp.float32) / 255
        return {**batch, "input": x if dtype is None else x.astype(dtype)}

    def loss(self, model, batch, key):
        sums = self.evaluate(lambda x: model(x, key=key), batch)
        weight = sums["rows"].sum() / 2
        return Loss(sums["squares"].sum() / jnp.maximum(sums["rows"].sum(), 1), weight, sums)

    def evaluate(self, model, batch):
        """A vector of sums, one for each target, with a vector of weights of its own."""
        squares = jnp.where(batch["valid"][:, None], (model(batch["input"]) - batch["target"]) ** 2, 0)
        return {"squares": squares.sum(0), "rows": jnp.full((self.targets,), batch["valid"].sum())}

    def summarise(self, sums):
        errors = np.asarray(sums["squares"], np.float64) / sums["rows"]
        return {"error": float(errors.mean()), "worst": float(errors.max()), "rows": float(sums["rows"][0])}

    def details(self, sums):
        return {}

    def show_details(self, details):
        raise AssertionError("there are none")

    def draw_details(self, figure, details):
        raise AssertionError("there are none")

    def baseline(self, data, source, train):
        known, asked = (s.batch(range(len(s)))["target"] for s in (train, source))
        squares = (asked - known.mean(0)) ** 2
        return Baseline("mean_target", float(squares.mean()), float(squares.std() / len(asked) ** 0.5), len(asked))

    def describe(self, figures):
        return f"error {figures['error']:.5f} (n = {figures['rows']:.0f})"

    def draw(self, figure, model, source):
        batch = source.batch(range(4))
        for axes, row in zip(draw_stimuli(figure, batch["input"], "target"), batch["target"], strict=True):
            axes.bar(range(2), row)
        assert model(self.prepare(batch)["input"]).shape == (4, 2)

    def reading(self, output):
        return {"prediction": [float(v) for v in output]}

    def show(self, reading):
        return " ".join(f"{v:.3f}" for v in reading["prediction"])


class MeanState(NamedTuple):
    total: Any
    count: Any


class Averager(Model):
    """Dense(mean over frames and pixels): the smallest model that streams."""

    def __init__(self, channels, outputs, rngs):
        self.head = nnx.Linear(channels, outputs, rngs=rngs)

    def features(self, x, *, dt=None, key=None):
        return x.mean((1, 2, 3))

    def __call__(self, x, *, dt=None, key=None):
        return self.head(self.features(x))

    def init_state(self, batch, grid):
        return MeanState(jnp.zeros((batch, self.head.in_features)), jnp.zeros((), jnp.int32))

    def step(self, state, x, dt=None):
        state = MeanState(state.total + x.mean((1, 2)), state.count + 1)
        return state, self.head(state.total / state.count)


@loadable
@dataclasses.dataclass(frozen=True, kw_only=True)
class AveragerConfig:
    """Options of `Averager`."""

    channels: int = 3
    """Channels of the pixels."""
    outputs: int = 1
    """Numbers to predict."""

    def make(self, rngs):
        return Averager(self.channels, self.outputs, rngs)

    def fitted(self, input_shape, outputs):
        return dataclasses.replace(self, channels=input_shape[-1], outputs=outputs)


MODELS.register("averager")(AveragerConfig())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Darken:
    """An augmentation that can be seen: every pixel halved, and the target left."""

    def fitted(self, data, classes, normalization):
        return self

    def __call__(self, key, batch):
        return {**batch, "input": batch["input"] // 2}


loadable(Darken)


@RECIPES.register("blobs")
def blobs() -> Run:
    """The brightness of blobs: seconds on any CPU."""
    return Run(
        recipe="blobs",
        data=Blobs(),
        model=AveragerConfig(),
        task=Regress(),
        train=TrainConfig(
            steps=12, batch_size=8, lr=0.3, warmup_steps=2, eval_every=4, log_every=1, logger="jsonl", progress=False
        ),
        train_size=64,
        val_size=20,
        test_size=21,
    )


if __name__ == "__main__":
    sys.modules["toys"] = sys.modules["__main__"]
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main(sys.argv[1:]))
