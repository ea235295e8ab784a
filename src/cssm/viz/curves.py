"""Training curves: the loss and the monitored figure against the step, with the shortcut baseline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cssm.data.baselines import Baseline
from cssm.shared.palette import BLUE, QUIET, RED
from cssm.tasks import Monitor

from .figure import figure, plain


def draw_curves(
    records: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    monitor: Monitor,
    baseline: Baseline | None = None,
    title: str = "",
) -> None:
    """Draw the records of a run's metrics.jsonl as a PNG: the loss on the left, the monitored figure on the right."""
    with figure(path, figsize=(9, 3.4)) as fig:
        loss, monitored = fig.subplots(1, 2)
        for axes, name in ((loss, "loss"), (monitored, monitor.name)):
            _curve(axes, records, "train", name, "-", color=QUIET, linewidth=0.8, label="train")
            _curve(axes, records, "eval", name, "o-", color=BLUE, markersize=4, label="validation")
            plain(axes, xlabel="step", ylabel=name)
            axes.xaxis.get_major_locator().set_params(integer=True)
        if baseline is not None:
            monitored.axhline(baseline.value, color=RED, linestyle="--", linewidth=1, label=baseline.title)
        if monitor.chance is not None:
            monitored.axhline(monitor.chance, color=QUIET, linestyle=":", linewidth=1, label="chance")
        if title:
            fig.suptitle(title, fontsize=10)
        _mark_best(monitored, records, monitor)
        monitored.legend(frameon=False, loc="best")


def _curve(axes, records, kind: str, name: str, style: str, **options) -> None:
    points = [(r["step"], r[name]) for r in records if r["kind"] == kind and r.get(name) is not None]
    axes.plot(*zip(*points, strict=True), style, **options) if points else None


def _mark_best(axes, records, monitor: Monitor) -> None:
    points = [(r[monitor.name], r["step"]) for r in records if r["kind"] == "eval" and r[monitor.name] is not None]
    if points:
        score, step = (max if monitor.higher_is_better else min)(points, key=lambda point: point[0])
        above = (0, 6) if monitor.higher_is_better else (0, -12)
        last = max(record["step"] for record in records)
        box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        side = "right" if step > 0.8 * last else "center"  # not over the edge
        axes.annotate(f"{score:.4f}", (step, score), above, textcoords="offset points", ha=side, bbox=box)
        axes.margins(y=0.1)
