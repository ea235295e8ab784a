"""A sheet of stimuli with what the model says of each."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.data import Source

from .figure import GREEN, QUIET, RED, figure

FRAMES = 5  # frames of a video that are shown, beside the maximum over time


def draw_predictions(model, task, source: Source, path: Path, *, samples: int = 8) -> None:
    """Draw the first `samples` of a source, one a row: frames, maximum over time, and class probabilities as bars."""
    batch = source.batch(np.arange(min(samples, len(source))))
    graph, params = nnx.split(model)
    predict = jax.jit(lambda params, x: jax.nn.softmax(nnx.merge(graph, params)(x), -1))
    probabilities = np.asarray(predict(params, task.prepare(batch)["input"]))
    panels = [_panels(x) for x in batch["input"]]
    columns = len(panels[0]) + 1
    with figure(path, figsize=(1.25 * columns + 0.6, 1.25 * len(panels) + 0.4)) as fig:
        grid = fig.subplots(len(panels), columns, squeeze=False)
        for row, images, label, chances in zip(grid, panels, batch["label"], probabilities, strict=True):
            for axes, (title, image) in zip(row[:-1], images, strict=True):
                axes.imshow(image, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                if axes in grid[0]:
                    axes.set_title(title, fontsize=8)
            _bars(row[-1], chances, int(label))
        grid[0, -1].set_title("model (bold: truth)", fontsize=8)


def _panels(x):
    """[(title, image)] of a video or a still image."""
    if x.ndim == 3:
        return [("image", _show(x))]
    chosen = np.unique(np.linspace(0, len(x) - 1, FRAMES).round().astype(int))
    return [(f"frame {t + 1}", _show(x[t])) for t in chosen] + [("max over time", _show(x.max(0)))]


def _show(image):
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    low, high = image.min(), image.max()
    return (image - low) / max(high - low, 1e-6)


def _bars(axes, chances, label):
    right = int(jnp.argmax(chances)) == label
    colors = [(GREEN if right else RED) if i == np.argmax(chances) else QUIET for i in range(len(chances))]
    axes.barh(range(len(chances)), chances, color=colors, height=0.6)
    axes.set(xlim=(0, 1), xticks=[], yticks=range(len(chances)))
    for i, tick in enumerate(axes.get_yticklabels()):
        tick.set(fontsize=8, fontweight="bold" if i == label else "normal")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.invert_yaxis()
