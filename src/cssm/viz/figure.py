"""Matplotlib without a display: figures made and saved, never shown, never kept."""

from contextlib import contextmanager
from pathlib import Path

from cssm.core.files import replacing


@contextmanager
def figure(path: Path, *, dpi: int = 130, **options):
    """A figure that is written to `path` when the block ends, through a temporary file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(layout="constrained", **options)
    FigureCanvasAgg(fig)
    yield fig
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        fig.savefig(new, dpi=dpi, format="png")


def plain(axes, **labels):
    """Two spines, a light grid, the labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set(**labels)
