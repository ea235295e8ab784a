"""Training curves: loss and accuracy against the step, with the markers-only baseline."""

import json
from pathlib import Path

from .figure import BLUE, QUIET, RED, figure, plain


def draw_curves(metrics: Path, path: Path, *, markers_only: float | None = None) -> None:
    """Draw metrics.jsonl of a run as a PNG: loss on the left, accuracy on the right."""
    records = [json.loads(line) for line in Path(metrics).read_text().splitlines()]
    train = [r for r in records if r["kind"] == "train"]
    val = [r for r in records if r["kind"] == "eval"]
    with figure(path, figsize=(9, 3.4)) as fig:
        loss, accuracy = fig.subplots(1, 2)
        for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
            axes.plot([r["step"] for r in train], [r[name] for r in train], color=QUIET, linewidth=0.8, label="train")
            axes.plot(
                [r["step"] for r in val], [r[name] for r in val], "o-", color=BLUE, markersize=4, label="validation"
            )
            plain(axes, xlabel="step", ylabel=name)
        if markers_only is not None:
            accuracy.axhline(markers_only, color=RED, linestyle="--", linewidth=1, label="markers only")
        if val:
            best = max(val, key=lambda r: r["accuracy"])
            label = f"{best['accuracy']:.3f}"
            accuracy.annotate(label, (best["step"], best["accuracy"]), (0, 6), textcoords="offset points", ha="center")
        accuracy.set_ylim(top=1.02)
        accuracy.legend(frameon=False, loc="lower right")
