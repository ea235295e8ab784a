"""One process of several, to be started by test_distributed.py: `process_toys.py INDEX COUNT PORT FOLDER SCENE...`.

INDEX, COUNT and PORT are "-" where the environment is that of a launcher.

A scene is a run of the toy in FOLDER/SCENE; what a process has of it goes to FOLDER/SCENE-INDEX.json.
"""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from train_toys import SIZE, TASK, Endless, config, parameters, tiny, validation

from cssm.core.errors import CssmError, DataError
from cssm.data import Source, loader
from cssm.data.augment.photo import Photo
from cssm.tasks import Classify
from cssm.train import Interrupted, evaluate, evaluate_sums, join, load_model, train

OPTIONS = {"ema": 0.9, "accumulate": 2}
AUGMENT = Photo(crop_scale=0.3, policy="three", erasing=0.5, mixup=0.8, cutmix=1.0, classes=2, pixels="symmetric")


def part(batch, index, count):
    """The rows of one process."""
    rows = len(batch["valid"]) // count
    return {key: value[index * rows : (index + 1) * rows] for key, value in batch.items()}


class Rows:
    """Process `index`'s rows of the toy data; `act(i)` happens before batch i of a process."""

    def __init__(self, index, count, act=lambda i: None):
        self.whole, self.index, self.count, self.act = Endless(), index, count, act

    def __iter__(self):
        return self

    def __next__(self):
        self.act(self.whole.i + 1)
        return part(next(self.whole), self.index, self.count)

    def get_state(self):
        return self.whole.get_state()

    def set_state(self, state):
        self.whole.set_state(state)


class LongEvaluation:
    """The toy's validation data with batches behind it that hold no valid row; `act` happens in the first pass."""

    def __init__(self, index, count, act):
        empty = [batch | {"valid": batch["valid"] & False} for batch in validation()]
        self.batches = [part(batch, index, count) for batch in validation() + 4 * empty]
        self.act, self.given = act, 0

    def __iter__(self):
        for batch in self.batches:
            self.given += 1
            self.act(self.given)
            yield batch


def fit(run_dir, index, count, act=lambda i: None, during_evaluation=False, **kwargs):
    """The toy run of `train_toys.fit`, as one process of several; a summary of the result."""
    model = tiny()
    val_data = [part(batch, index, count) for batch in validation()]
    if during_evaluation:
        val_data, act = LongEvaluation(index, count, act), lambda i: None
    data, options = Rows(index, count, act), config(**OPTIONS)
    try:
        result = train(model, TASK, data, val_data, options, run_dir, resume_hint="run it again", **kwargs)
    except Interrupted as stopped:
        return {"stopped": stopped.step, "code": stopped.code, "batches": getattr(val_data, "given", 0)}
    load_model(run_dir if index == 0 else "nowhere", model, "best", together=True)
    figures = evaluate(model, TASK, val_data)
    weights = {name: value.tolist() for name, value in parameters(model).items()}
    return {
        "best": [result.best_score, result.best_step],
        "history": result.history,
        "final": result.final_step,
        "figures": figures,
        "weights": weights,
    }


class Numbered(Source):
    """A thousand of the toy's images; the label says which."""

    def __len__(self):
        return 1000

    def batch(self, indices):
        images = np.stack([(np.arange(SIZE * SIZE * 3) * (7 + i) % 256).reshape(SIZE, SIZE, 3) for i in indices])
        return {"input": images.astype(np.uint8), "label": np.array(indices, np.int32)}


class Census(Classify):
    """How often each sample is counted, and the sum of what the model says of all."""

    def evaluate(self, model, batch):
        valid = batch["valid"].astype(jnp.int32)
        logits = jnp.where(batch["valid"][:, None], model(batch["input"]), 0)
        return {"seen": jnp.zeros(1000, jnp.int32).at[batch["label"]].add(valid), "logits": logits.sum(0)}


def census(index, count):
    """The sums over the thousand in batches of 48, which divides neither it nor the part of a process."""
    sums = evaluate_sums(tiny(), Census(), loader(Numbered(), batch_size=48, process=(index, count)))
    return {name: value.tolist() for name, value in sums.items()}


def kill(number):
    return lambda: os.kill(os.getpid(), number)


def raise_(error):
    raise error


def hang():
    time.sleep(1000)


SCENES = {  # scene: (process that acts, before which batch, what it does, options of train)
    "whole": (None, None, None, {}),
    "resumed": (None, None, None, {"resume": True}),
    "augmented": (None, None, None, {"augment": AUGMENT}),
    "damaged": (None, None, None, {"resume": True}),
    "stopped_by_0": (0, 7, kill(signal.SIGTERM), {}),
    "stopped": (1, 7, kill(signal.SIGTERM), {}),
    "stopped_evaluating": (1, 2, kill(signal.SIGTERM), {"during_evaluation": True}),
    "killed": (1, 7, kill(signal.SIGKILL), {}),
    "coordinator_killed": (0, 7, kill(signal.SIGKILL), {}),
    "damaged_data": (1, 7, lambda: raise_(DataError("shard 3 is damaged")), {}),
    "out_of_memory": (1, 7, lambda: raise_(MemoryError("4 GiB")), {}),
}


def play(folder, scene, index, count):
    if scene == "census":
        (folder / f"{scene}-{index}.json").write_text(json.dumps(census(index, count)))
        return
    actor, when, what, options = SCENES[scene]

    def act(i):
        if index == actor and i == when:
            what()
        elif actor is not None and i > when:
            time.sleep(0.5)  # the news of it reaches the others before the run is over

    # only process 0 may look into the run folder
    summary = fit(folder / scene if index == 0 else Path("nowhere"), index, count, act, **options)
    (folder / f"{scene}-{index}.json").write_text(json.dumps(summary))


def main(index, count, port, folder, *scenes):
    where = () if port == "-" else (f"127.0.0.1:{port}", int(count), int(index))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with join(*where, timeout=60) as processes:
        assert jax.process_count() == processes.count
        for scene in scenes:
            play(Path(folder), scene, processes.index, processes.count)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except CssmError as error:
        print(f"cssm: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
