"""The impulse response of a mixer: what a point in one frame becomes, over space and over time."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cssm.core.errors import UsageError
from cssm.core.typing import Grid
from cssm.nn.mixer import create_mixer, options_of
from cssm.shared.palette import BLUE, GREEN, RED

from .figure import figure, plain

COLORS = (BLUE, RED, GREEN)
VISIBLE = {"memory": 3.0, "init_scale": 0.1}  # options that make an untrained response last and spread
BACKGROUND = 0.5  # a grey clip keeps gates that multiply by the input open
DPI = 80


def impulse_response(
    name: str, *, grid: Grid = (21, 21), frames: int = 8, channels: int = 8, seed: int = 0
) -> np.ndarray:
    """(T, H, W, C): y of a grey clip whose frame 0 has a point at its centre, minus y of the grey clip.

    The point is +1 in even channels and -1 in odd ones: a normalisation over channels would not see the same in all.
    The mixer is untrained; one whose kernels start near zero gets the options in VISIBLE, where it has them. A control
    sees the whole clip at once, so its response has no direction in time.

    Raises:
      UsageError: no frames, channels or pixels. UnknownNameError: no such mixer.

    >>> impulse_response("conv_ssm", grid=(5, 5), frames=2, channels=4).shape
    (2, 5, 5, 4)
    """
    for what, size in {"frames": frames, "channels": channels, "height": grid[0], "width": grid[1]}.items():
        if size < 1:
            raise UsageError(f"impulse: {what} is {size}, expected at least 1")
    if frames > 256:
        raise UsageError(f"impulse: frames is {frames}: a picture holds at most 256 side by side")
    options = {option: value for option, value in VISIBLE.items() if option in options_of(name)}
    mixer = create_mixer(name, channels=channels, grid=grid, rngs=nnx.Rngs(seed), **options)
    grey = jnp.full((1, frames, *grid, channels), BACKGROUND)
    lit = grey.at[0, 0, grid[0] // 2, grid[1] // 2].add((-1.0) ** jnp.arange(channels))
    graph, params = nnx.split(mixer)
    run = jax.jit(lambda params, x: nnx.merge(graph, params)(x))
    return np.asarray(run(params, lit) - run(params, grey), np.float32)[0]


def draw_impulse(name: str, path: Path, *, rows: int = 3, **options) -> Path:
    """Draw the response: one row for each of the strongest channels, one column a frame, and its centre over time.

    options: as `impulse_response`. Blue is negative, red positive, on a square-root scale of each row's own, whose
    end is written beside it.
    """
    response = impulse_response(name, **options)
    frames, _, _, total = response.shape
    channels = np.argsort(-np.square(response).sum((0, 1, 2)), kind="stable")[: min(rows, total)].tolist()
    with figure(Path(path), figsize=(0.95 * frames + 2.8, 0.95 * len(channels) + 0.8), dpi=DPI) as fig:
        fig.suptitle(f"{name}: what a point in frame 0 becomes", fontsize=9)
        axes = fig.subplots(len(channels), frames + 1, squeeze=False, width_ratios=[1] * frames + [2.2])
        for row, channel in zip(axes, channels, strict=True):
            _strip(row[:-1], response[..., channel], channel)
            row[-1].set_axis_off()
        for t, axis in enumerate(axes[0, :-1]):
            axis.set_title(f"t = {t}", fontsize=8)
        _centres(fig.add_subplot(axes[0, -1].get_gridspec()[:, -1]), response[..., channels])
    return Path(path)


def _strip(axes, values, channel: int) -> None:
    """Frames after the impulse set the scale, unless nothing is left of it."""
    later, limit = float(np.abs(values[1:]).max(initial=0)), float(np.abs(values).max())
    limit = later if later > 1e-3 * limit else max(limit, 1e-30)
    shown = np.sign(values) * np.sqrt(np.minimum(np.abs(values) / limit, 1))
    for axis, frame in zip(axes, shown, strict=True):
        axis.imshow(frame, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        axis.set(xticks=[], yticks=[])
    axes[0].set_ylabel(f"channel {channel}\n±{limit:.1e}", fontsize=6)


def _centres(axis, values) -> None:
    """The response at the centre over time, each channel on its own scale."""
    _, height, width, channels = values.shape
    for channel in range(channels):
        line = values[:, height // 2, width // 2, channel]
        color = COLORS[channel % len(COLORS)]
        axis.plot(line / max(float(np.abs(line).max()), 1e-30), "o-", color=color, markersize=2.5, linewidth=1)
    plain(axis, xlabel="frame", ylabel="of its largest value")
    axis.yaxis.label.set_size(7)
    axis.set_title(f"at the centre, {channels} channels", fontsize=8)
    axis.tick_params(labelsize=7)
