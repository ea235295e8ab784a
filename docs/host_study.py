"""Write the table of hosts in docs/results.md: small hosts on two sets of ten classes, three seeds. Run by hand.

    python docs/host_study.py            about half an hour on two cores; what is there is not trained again

A ConvNeXt with its `ssm` and a vision transformer with a mixer, T = 1, 8, 24, beside the plain ones of the same sizes
and a linear classifier of the pixels.
"""

import dataclasses
import json
import statistics
import sys
from pathlib import Path

import numpy as np

from cssm.data import DATASETS
from cssm.models import ConvNeXtConfig, ViTConfig
from cssm.recipes import RECIPES, Run

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "runs" / "host_study"
SIZES = {"depths": (1, 1), "dims": (24, 48), "kernel_size": 7, "patch_size": 2, "layer_scale": 0.1}
CONVNEXT = ConvNeXtConfig(**SIZES)
VIT = ViTConfig(embed_dim=32, depth=2, head_dim=16, patch_size=4, mlp_ratio=2.0)
MODELS = {
    "ConvNeXt": CONVNEXT,
    **{f"ConvNeXt, ssm, T = {t}": dataclasses.replace(CONVNEXT, variant="ssm", timesteps=t) for t in (1, 8, 24)},
    "ViT, attention": VIT,
    **{f"ViT, standard, T = {t}": dataclasses.replace(VIT, mixer="standard", timesteps=t) for t in (1, 8, 24)},
}
SETS, SEEDS = ("digits", "photos"), (0, 1, 2)


def run_of(data: str, model, seed: int) -> Run:
    own = RECIPES["digits"]()
    train = dataclasses.replace(own.train, epochs=10 if data == "photos" else 12, seed=seed, progress=False)
    task = dataclasses.replace(own.task, label_smoothing=0.1)
    return dataclasses.replace(own, data=DATASETS[data](size=32), model=model, train=train, task=task, augment=None)


def accuracy(data: str, name: str, seed: int) -> float:
    """Validation accuracy of the last epoch."""
    from cssm.recipes import execute

    place = FOLDER / f"{data}-{name.replace(' ', '').replace(',', '-')}-{seed}"
    if not (place / "summary.json").exists():
        execute(run_of(data, MODELS[name], seed), place)
    records = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    return [r["accuracy"] for r in records if r["kind"] == "eval"][-1]


def linear(data: str) -> float:
    """Logistic regression on the pixels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    source = DATASETS[data](size=32).source
    (x, y), (v, w) = (
        (b["input"].reshape(len(b["label"]), -1) / 255, b["label"])
        for b in (s.batch(np.arange(len(s))) for s in (source("train"), source("val")))
    )
    scale = StandardScaler().fit(x)
    return LogisticRegression(C=1e-3, max_iter=500).fit(scale.transform(x), y).score(scale.transform(v), w)


def table() -> str:
    rows = ["| model | " + " | ".join(SETS) + " |", "|---|" + "---|" * len(SETS)]
    rows.append("| linear, on pixels | " + " | ".join(f"{linear(d):.3f}" for d in SETS) + " |")
    for name in MODELS:
        cells = []
        for data in SETS:
            found = [accuracy(data, name, seed) for seed in SEEDS]
            cells.append(f"{statistics.mean(found):.3f} ({min(found):.3f}-{max(found):.3f})")
            print(name, data, found, flush=True)
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def main() -> None:
    begin, end = "<!-- hosts: written by `python docs/host_study.py` -->\n", "<!-- end of hosts -->"
    page = ROOT / "docs" / "results.md"
    text = page.read_text()
    page.write_text(text.split(begin)[0] + begin + table() + end + text.split(end)[1])
    print(page)


if __name__ == "__main__":
    sys.exit(main())
