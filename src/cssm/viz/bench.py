"""Curves of a benchmark sweep: log-log, one panel per axis, one line per contender."""

import itertools
from pathlib import Path

from .figure import BLUE, GREEN, INK, QUIET, RED, figure, plain

COLORS = (QUIET, BLUE, RED, GREEN, INK)


def draw_sweep(timings, path: Path) -> None:
    """Draw the timings of one sweep (see `cssm.bench.Timing`): median time with its quartiles against T, H or C."""
    axes_names = list(dict.fromkeys(t.axis for t in timings))
    with figure(path, figsize=(1.2 + 3.6 * len(axes_names), 3.4)) as fig:
        panels = fig.subplots(1, len(axes_names), squeeze=False, sharey=True)[0]
        for panel, axis in zip(panels, axes_names, strict=True):
            _panel(panel, [t for t in timings if t.axis == axis])
            plain(panel, xlabel=axis, ylabel="ms, median and quartiles" if panel is panels[0] else "")
        panels[0].legend(frameon=False, fontsize=8)
        fig.suptitle(timings[0].sweep.replace("_", " "), fontsize=10)


def _panel(panel, timings):
    by_contender = sorted(timings, key=lambda t: (t.framework, t.contender != timings[0].contender, t.contender))
    groups = itertools.groupby(by_contender, lambda t: (t.framework, t.contender))
    for color, ((side, name), points) in zip(itertools.cycle(COLORS), groups, strict=False):
        points = sorted(points, key=lambda t: t.value)
        x = [t.value for t in points]
        label = name if side == "jax" else f"{name} ({side})"
        panel.fill_between(x, [1e3 * t.low for t in points], [1e3 * t.high for t in points], color=color, alpha=0.2)
        panel.plot(x, [1e3 * t.median for t in points], "o-", color=color, markersize=3.5, linewidth=1.2, label=label)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
