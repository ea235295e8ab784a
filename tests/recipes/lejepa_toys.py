"""A small run of LeJEPA; as a program, one process of several that carry it out: `lejepa_toys.py INDEX COUNT PORT RUN`.

RUN is the run folder. Only process 0 may see it: the others are given a place that does not exist.
"""

import sys
from pathlib import Path

from cssm.data import PathTracker
from cssm.models import SimpleCSSMConfig
from cssm.recipes import Run, execute
from cssm.tasks import LeJEPA
from cssm.train import TrainConfig, join


def toy():
    return Run(
        recipe="lejepa_toy", data=PathTracker(frames=4), task=LeJEPA(embedding=4, hidden=8, slices=8, neighbours=3),
        model=SimpleCSSMConfig(embed_dim=8, stem="patch", position="none", norm="layer"),
        train=TrainConfig(steps=4, batch_size=8, eval_every=2, log_every=1, progress=False, logger="jsonl"),
        train_size=40, val_size=21, test_size=24,
    )  # fmt: skip


if __name__ == "__main__":
    index, count, port, run_dir = sys.argv[1:]
    with join(f"127.0.0.1:{port}", int(count), int(index), timeout=60) as processes:
        execute(toy(), Path(run_dir if processes.writes else "nowhere"))
