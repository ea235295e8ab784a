"""Curves of a benchmark sweep: log-log, one panel per axis, one line per contender."""

from pathlib import Path

from cssm.shared.palette import BLUE, GREEN, INK, QUIET, RED

from .figure import figure, plain

COLORS = (QUIET, BLUE, RED, GREEN, INK)  # one for each contender
LINES = {"jax": "-", "torch": "--"}


def draw_sweep(timings, path: Path) -> None:
    """Draw the timings of one sweep (see `cssm.bench.Timing`): median time with its quartiles against T, H or C."""
    axes_names = list(dict.fromkeys(t.axis for t in timings))
    with figure(path, figsize=(1.2 + 3.6 * len(axes_names), 3.6)) as fig:
        panels = fig.subplots(1, len(axes_names), squeeze=False, sharey=True)[0]
        for panel, axis in zip(panels, axes_names, strict=True):
            _panel(panel, [t for t in timings if t.axis == axis])
            plain(panel, xlabel=axis, ylabel="ms, median and quartiles" if panel is panels[0] else "")
        panels[0].legend(frameon=False, fontsize=8)
        fig.suptitle(f"{timings[0].sweep.replace('_', ' ')}: {timings[0].comparison} and on", fontsize=9)


def _panel(panel, timings):
    from matplotlib.ticker import LogLocator

    contenders = list(dict.fromkeys(t.contender for t in timings))
    sides = list(dict.fromkeys(t.framework for t in timings))
    for side in sides:
        for color, name in zip(COLORS, contenders, strict=False):
            points = [t for t in timings if (t.framework, t.contender) == (side, name)]
            if points:
                _line(panel, sorted(points, key=lambda t: t.value), color, LINES[side], name, len(sides) > 1 and side)
    values = sorted({t.value for t in timings})
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(values, [f"{v:,}" for v in values])
    panel.minorticks_off()
    panel.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")


def _line(panel, points, color, dashes, name, side):
    x = [t.value for t in points]
    style = {"color": color, "linestyle": dashes, "linewidth": 1.2, "markersize": 3.5}
    panel.fill_between(x, [1e3 * t.low for t in points], [1e3 * t.high for t in points], color=color, alpha=0.15)
    panel.plot(x, [1e3 * t.median for t in points], "o", label=f"{name} ({side})" if side else name, **style)
